"""Kernels are compiled once for this machine, and again when their source changes; where they cannot be, it is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sartor.ops import native

from .conftest import forget_kernels

SOURCE = """
#ifdef ELEMENT_FLOAT32
typedef float Element;
#else
typedef unsigned short Element;
#endif
#define EXTERN extern "C" __attribute__((visibility("default")))
EXTERN void twice(const int* from, int* to, long count, float more) {
    for (long i = 0; i < count; i++) to[i] = 2 * from[i] + int(more);
}
EXTERN void bytes(int* to) { *to = sizeof(Element); }
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of sources and a cache of its own: a kernel as small as can be, so that compiling takes no time."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "small.cpp").write_text(SOURCE, encoding="utf-8")
    (folder / "numbers.hpp").write_text("", encoding="utf-8")
    monkeypatch.setattr(native, "HERE", folder)
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(native.OFF, raising=False)
    forget_kernels()
    yield folder
    forget_kernels()


def kept(sources: Path) -> list[str]:
    return sorted(folder.name for folder in (sources.parent / "cache" / "native").glob("*") if folder.is_dir())


def counting_compiler(folder: Path) -> Path:
    """A compiler that writes down each call before it does its work."""
    path = folder / "c++"
    real = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec {real} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_kernel_is_compiled_once_and_found_again(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(sources)))
    forget_kernels()
    assert native.problem() == ""
    for _ in range(2):
        library = native.load("small", "float32")
        assert library is not None
        native.load.cache_clear()  # as another process
    calls = (sources / "calls").read_text(encoding="utf-8").splitlines()
    assert sum("small.cpp" in call for call in calls) == 1
    (name,) = kept(sources)
    assert name.startswith("small-float32-")
    assert (sources.parent / "cache" / "native" / name / "manifest.json").is_file()


def test_functions_take_pointers_and_numbers(sources: Path) -> None:
    sizes = []
    for element in ("float32", "bfloat16"):
        library = native.load("small", element)  # type: ignore[arg-type]
        assert library is not None
        given, result = torch.arange(5, dtype=torch.int32), torch.zeros(5, dtype=torch.int32)
        native.function(library, "twice", "pplf")(given.data_ptr(), result.data_ptr(), 5, 1.0)
        assert result.tolist() == [1, 3, 5, 7, 9]
        native.function(library, "bytes", "p")(result.data_ptr())
        sizes.append(int(result[0]))
    assert sizes == [4, 2]
    assert len(kept(sources)) == 2


def test_a_type_of_torch_names_the_element(sources: Path) -> None:
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        library, result = native.load_for("small", dtype), torch.zeros(1, dtype=torch.int32)
        assert library is not None
        native.function(library, "bytes", "p")(result.data_ptr())
        assert int(result) == size
    assert native.load_for("small", torch.float64) is None
    assert len(kept(sources)) == 2


@pytest.mark.parametrize("file", ["small.cpp", "numbers.hpp"])
def test_another_source_is_another_kernel(sources: Path, file: str) -> None:
    assert native.load("small", "float32") is not None
    with (sources / file).open("a", encoding="utf-8") as source:
        source.write("// changed\n")
    forget_kernels()
    assert native.load("small", "float32") is not None
    assert len(kept(sources)) == 2


def test_a_damaged_library_is_made_again(sources: Path) -> None:
    assert native.load("small", "float32") is not None
    (name,) = kept(sources)
    library = sources.parent / "cache" / "native" / name / "kernel.so"
    copy = library.read_bytes()
    library.unlink()  # a new file: the loaded one is mapped from the old
    library.write_bytes(copy[: len(copy) // 2])
    forget_kernels()
    assert native.load("small", "float32") is not None
    assert library.read_bytes() == copy


def test_without_a_compiler_there_are_none_and_it_is_said(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    forget_kernels()
    assert native.load("small", "float32") is None
    assert "no C++ compiler (g++, clang++, c++) is installed" in native.problem()
    assert kept(sources) == []


def test_a_compiler_that_is_named_but_missing_is_none(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    forget_kernels()
    assert native.compiler() == ()
    assert native.load("small", "float32") is None
    assert native.problem() == "CXX=/nonexistent/c++: there is none"


def test_a_compiler_may_speak_in_any_encoding(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = tmp_path / "c++"
    wrapper.write_text("#!/bin/sh\nprintf '\\251 2026\\n'\nprintf '\\251\\n' >&2\nexit 1\n", encoding="utf-8")
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    forget_kernels()
    assert "compiling small.cpp failed" in native.refusal("small", "float32")


def test_a_compiler_may_have_arguments_and_is_asked_for_its_version_once(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", f"{counting_compiler(sources)} -DMORE='a b'")
    forget_kernels()
    assert native.compiler()[1:] == ("-DMORE=a b",)
    assert native.refusal("small", "float32") == native.refusal("small", "bfloat16") == ""
    calls = (sources / "calls").read_text(encoding="utf-8").splitlines()
    assert ["--version" in call for call in calls] == [True, False, False]
    assert all(call.startswith("-DMORE=a b") for call in calls)
    monkeypatch.setenv("CXX", f"{counting_compiler(sources)} -DMORE=other")
    forget_kernels()
    assert native.refusal("small", "float32") == ""
    assert (sources / "calls").read_text(encoding="utf-8").splitlines()[-1].startswith("-DMORE=other"), "made anew"
    monkeypatch.setenv("CXX", "'c++")
    forget_kernels()
    assert "CXX='c++" in native.problem()


def test_a_c_compiler_links_what_cpp_needs(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "small.cpp").write_text(
        f"#include <vector>\n{SOURCE}int* kept() {{ return new int[9]; }}", encoding="utf-8"
    )
    monkeypatch.setenv("CXX", "gcc")
    forget_kernels()
    assert native.refusal("small", "float32") == ""


def test_processes_that_start_at_once_compile_once(sources: Path) -> None:
    code = (
        "import pathlib, sys; from sartor.ops import native; native.HERE = pathlib.Path(sys.argv[1]);"
        "sys.exit(native.refusal('small', 'float32') or 0)"
    )
    compiler = counting_compiler(sources)
    compiler.write_text(compiler.read_text().replace("exec", "sleep 0.3; exec"))
    command = [sys.executable, "-c", code, str(sources)]
    three = [subprocess.Popen(command, env={**os.environ, "CXX": str(compiler)}) for _ in range(3)]
    assert [process.wait(timeout=120) for process in three] == [0, 0, 0]
    calls = (sources / "calls").read_text(encoding="utf-8").splitlines()
    assert sum("small.cpp" in call for call in calls) == 1


@pytest.mark.parametrize("file", [".", "kernel.so"])
def test_a_kernel_that_others_can_write_is_refused(sources: Path, file: str) -> None:
    assert native.refusal("small", "float32") == ""
    (name,) = kept(sources)
    path = sources.parent / "cache" / "native" / name / file
    path.chmod(0o775)
    forget_kernels()
    assert "can be written by others" in native.refusal("small", "float32")
    assert native.load("small", "float32") is None


def test_a_kernel_of_another_user_is_refused(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.refusal("small", "float32") == ""
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    forget_kernels()
    assert "belongs to another user" in native.refusal("small", "float32")


def test_a_generous_umask_is_no_obstacle(sources: Path) -> None:
    before = os.umask(0)
    try:
        assert native.refusal("small", "float32") == ""
    finally:
        os.umask(before)


def test_a_compiler_that_fails_gives_none_and_leaves_nothing(sources: Path) -> None:
    (sources / "small.cpp").write_text("this is no C++", encoding="utf-8")
    assert native.load("small", "float32") is None
    assert kept(sources) == []


def test_a_compiler_that_takes_too_long_gives_none(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sources / "c++"
    path.write_text('#!/bin/sh\n[ "$1" = --version ] || exec sleep 30\n', encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setattr(native, "COMPILE_SECONDS", 0.2)
    forget_kernels()
    assert native.load("small", "float32") is None


def test_switched_off_nothing_is_compiled(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.OFF, "0")
    assert native.load("small", "float32") is None
    assert native.problem() == "SARTOR_NATIVE=0 turns them off"
    assert kept(sources) == []


def test_the_real_kernels_are_there() -> None:
    """On this machine all fast paths can be tested."""
    assert native.problem() == ""
    names = sorted(path.stem for path in native.HERE.glob("*.cpp"))
    found = {(name, element): native.refusal(name, element) for name in names for element in native.ELEMENTS}
    assert "the products of bf16 are left to the library" in found.pop(("product", "bfloat16"))
    assert set(found.values()) == {""}


@pytest.mark.parametrize("name", ["attention", "product"])
def test_the_real_kernels_need_no_newer_compiler(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GCC before 12 lacks clang's word for a permutation, and clang lacks GCC's: neither is read by the other."""
    foreign = "shuffle" if "clang" in native._words_of(native.compiler()) else "shufflevector"
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, f"-D__builtin_{foreign}=absent"))
    native._compile(name, "float32", tmp_path / native.LIBRARY)
