"""Small C++ kernels, compiled for this machine at first use and kept in the cache. Without a compiler there are none.

Every kernel has a plain twin in torch, so a machine without a compiler is slower, never wrong. `SARTOR_NATIVE=0` turns
them off. Nothing is downloaded; the only code compiled is what stands in this folder.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sartor import durable
from sartor.errors import MachineError
from sartor.hub import cache_dir
from sartor.types import digest_of

if TYPE_CHECKING:
    import torch

Element = Literal["bfloat16", "float32"]
ELEMENTS: tuple[Element, ...] = get_args(Element)

HERE = Path(__file__).parent
COMPILERS = ("g++", "clang++", "c++")
#: `native` is this machine and no other, so the cache is keyed by the processor as well.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fvisibility=hidden")
#: `CXX=gcc` compiles C++ and would link without its library.
LIBRARIES = ("-lstdc++",) if sys.platform == "linux" else ()
COMPILE_SECONDS = 120
#: Of the widest vector: widths that are no multiples of it are left to the twins, on any processor.
LANES = 16
LIBRARY = "kernel.so"
OFF = "SARTOR_NATIVE"
OTHERS_MAY_WRITE = 0o022

_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}


@cache
def load(name: str, element: Element) -> ctypes.CDLL | None:
    """The library of `native/<name>.cpp` for one element type; `None` where it cannot be had (`refusal` says why)."""
    # torch brings its own OpenMP. Loaded first, it is the one both use; two of them would fight for the cores.
    import torch  # noqa: F401

    return None if refusal(name, element) else ctypes.CDLL(str(_folder(name, element) / LIBRARY))


def load_for(name: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """`load` by torch's own name of a type; `None` also where the kernels do not compute in it."""
    found = [element for element in ELEMENTS if str(dtype) == f"torch.{element}"]
    return load(name, found[0]) if found else None


def refusal(name: str, element: Element) -> str:
    """Why a kernel cannot be had; "" when it is there."""
    return problem() or made(name, element)


@cache
def made(name: str, element: Element) -> str:
    """Compile a kernel where that was not done before. What went wrong; "" when it is there."""
    try:
        folder = _folder(name, element)
        if durable.verify(folder):
            with durable.exclusive(folder.with_name(f"{folder.name}.lock")):
                if durable.verify(folder):  # another process may have made it while this one waited
                    with durable.atomic_dir(folder) as staging:
                        _compile(name, element, staging / LIBRARY)
                        staging.chmod(0o755)  # whatever the umask is: see `_stranger`
        if found := _stranger(folder):
            return found
        ctypes.CDLL(str(folder / LIBRARY))
    except MachineError as error:
        return error.message
    except OSError as error:
        return f"{name} cannot be made or loaded: {error}"
    return ""


def _stranger(folder: Path) -> str:
    """Who else could have put code there, which would run as this user; "" if nobody."""
    for path in (folder, folder / LIBRARY):
        facts = path.stat()
        if facts.st_uid != os.getuid():
            return f"{path} belongs to another user: remove it, or give SARTOR_CACHE a folder of your own"
        if facts.st_mode & OTHERS_MAY_WRITE:
            return f"{path} can be written by others: remove it, or take their permission away (chmod go-w)"
    return ""


def function(library: ctypes.CDLL, name: str, signature: str) -> Callable[..., None]:
    """One function of a library. Signature letters: p pointer, l long, i int, f float. It gives nothing back."""
    found: Any = library[name]
    found.argtypes = [_TYPES[letter] for letter in signature]
    found.restype = None
    return found  # type: ignore[no-any-return]


def refuse_outside(numbers: torch.Tensor, count: int) -> None:
    """As torch does where it indexes: a kernel would read, and write, what lies beside its memory.

    Raises:
        IndexError: one of the numbers is not among 0 to `count` - 1.
    """
    if numbers.numel():
        least, most = (int(end) for end in numbers.aminmax())
        if least < 0 or most >= count:
            raise IndexError(f"index {least if least < 0 else most} is out of range: there are {count}")


def problem() -> str:
    """Why there are no native kernels here; "" when there are."""
    if os.environ.get(OFF) == "0":
        return f"{OFF}=0 turns them off"
    if compiler():
        return ""
    asked = os.environ.get("CXX")
    return f"CXX={asked}: there is none" if asked else f"no C++ compiler ({', '.join(COMPILERS)}) is installed"


@lru_cache(maxsize=1)
def compiler() -> tuple[str, ...]:
    """The C++ compiler as a command: `$CXX` with its arguments, else the first one found; () where there is none."""
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # a quotation that does not end
        return ()
    for name, *arguments in [asked] if asked else [[name] for name in COMPILERS]:
        if path := shutil.which(name):
            return path, *arguments
    return ()


def _folder(name: str, element: Element) -> Path:
    return cache_dir() / "native" / f"{name}-{element}-{_digest(name, element)[:16]}"


def _compile(name: str, element: Element, target: Path) -> None:
    """Raises:
    MachineError: the compiler refused, or took too long.
    """
    command = [*compiler(), *FLAGS, f"-DELEMENT_{element.upper()}", "-o", str(target), str(HERE / f"{name}.cpp")]
    command += LIBRARIES
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"compiling {name}.cpp took over {COMPILE_SECONDS} s", hint="try again") from error
    if done.returncode:
        raise MachineError(f"compiling {name}.cpp failed: {done.stderr[-500:]}", hint="install a newer g++")
    target.chmod(0o755)


def _digest(name: str, element: Element) -> str:
    files = [HERE / f"{name}.cpp", *sorted(HERE.glob("*.hpp"))]
    sources = [file.read_text(encoding="utf-8") for file in files]
    made_by = compiler()[1:], _words_of(compiler())  # its arguments change what it makes, and nothing that it says
    return digest_of(sources, element, FLAGS, LIBRARIES, made_by, _processor())


@cache
def _words_of(compiler: tuple[str, ...]) -> str:
    """What a compiler says of itself."""
    command = [*compiler, "--version"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout


def _processor() -> str:
    """What `-march=native` looks at, as the kernel tells it."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return " ".join(os.uname())
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model", "cpu family")))
