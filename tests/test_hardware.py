"""What the machine has: numbers that can be true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sartor import hardware


def test_a_look_finds_a_machine(tmp_path: Path) -> None:
    machine = hardware.look(tmp_path)
    assert machine.processor
    assert machine.num_cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert machine.memory_bytes > 2**27
    assert machine.free_disk_bytes > 0
    assert machine.flops == 0.0


def test_the_environment_is_prepared_and_what_is_set_stays() -> None:
    (name,) = hardware.ENVIRONMENT
    with hardware.environment_kept([name]):
        os.environ.pop(name, None)
        hardware.prepare_environment()
        made = os.environ[name]
        os.environ[name] = "7"
        hardware.prepare_environment()
        assert os.environ[name] == "7"
    assert made == hardware.ENVIRONMENT[name]


def test_speed_is_measured_over_several_products() -> None:
    def into(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
        torch.mm(left, right, out=out)

    products = (hardware.Product(64, 64, 64), hardware.Product(64, 64, 128))
    assert 1e6 < hardware.measure_flops("float32", 1, into, products=products) < 1e15
    assert 1e6 < hardware.measure_flops("bfloat16", 1, into, products=products[:1]) < 1e15


def test_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert hardware.memory_bytes() == hardware.look(tmp_path).memory_bytes


GIB = 2**30
LIMITS = {
    "version 2": {
        "proc/self/cgroup": "0::/docker/abc\n",
        "sys/fs/cgroup/docker/abc/memory.max": "max\n",
        "sys/fs/cgroup/docker/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/docker/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/docker/memory.stat": f"anon 7\nfile {2 * GIB}\ninactive_file {1 * GIB}\n",
        "sys/fs/cgroup/docker/abc/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/docker/cpu.max": "max 100000\n",
    },
    "version 1, whose own name only the host sees": {
        "proc/self/cgroup": "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {1 * GIB}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    "no limit": {
        "proc/self/cgroup": "4:memory:/\n3:cpu:/\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/cpu.max": "max 100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    "nothing at all": {},
}


def system(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> hardware.Hardware:
    """What is seen of a machine of 64 GiB, of which 60 are free, and 16 cores, with these files of the system."""
    memory = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {60 * 2**20} kB\n"
    for name, text in {"proc/meminfo": memory, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(hardware, "SYSTEM", folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    return hardware.look(folder)


@pytest.mark.parametrize(
    ("limits", "total", "free", "cores"),
    [
        ("version 2", 4, 2, 2),
        ("version 1, whose own name only the host sees", 4, 2, 2),
        ("no limit", 64, 60, 16),
        ("nothing at all", 64, 60, 16),
    ],
)
def test_a_container_has_what_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: str, total: int, free: int, cores: int
) -> None:
    machine = system(tmp_path, monkeypatch, LIMITS[limits])
    assert (machine.memory_bytes / GIB, machine.free_memory_bytes / GIB) == (total, free)
    assert hardware.memory_bytes() == machine.memory_bytes
    assert machine.num_cores == cores


def test_a_container_that_is_full_has_nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {**LIMITS["version 2"], "sys/fs/cgroup/docker/memory.current": f"{6 * GIB}"}
    assert system(tmp_path, monkeypatch, full).free_memory_bytes == 0


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("flags\t\t: fpu sse avx512f avx512_bf16", True),
        ("flags\t\t: fpu sse amx_bf16 amx_tile", True),
        ("flags\t\t: fpu sse avx2", False),
        ("Features\t: fp asimd sve bf16 i8mm", True),
        ("Features\t: fp asimd sve", False),
    ],
)
def test_linux_says_what_a_processor_multiplies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, wanted: bool
) -> None:
    monkeypatch.setattr(hardware.platform, "machine", lambda: "arm64")
    assert system(tmp_path, monkeypatch, {"proc/cpuinfo": f"processor : 0\n{line}\n"}).has_bf16 is wanted


@pytest.mark.parametrize(("said", "wanted"), [("1\n", True), ("0\n", False), ("", False)])
def test_macos_is_asked_what_its_processor_multiplies(monkeypatch: pytest.MonkeyPatch, said: str, wanted: bool) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **how: object) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(stdout=said)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(hardware.subprocess, "run", run)
    assert hardware._has_bf16() is wanted
    assert asked == [["/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_BF16"]]


def test_peak_memory_holds_what_was_held() -> None:
    before = hardware.peak_bytes()
    assert before > 2**20
    block = bytearray(b"x") * (64 * 2**20)
    assert hardware.peak_bytes() >= max(before, len(block))


class FakeCuda:
    """A GPU of 80 GB, of which 3 are held: 2 by torch, of which tensors needed 1 and a half at most."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"fake {index}", total_memory=80_000)

    def is_bf16_supported(self, *, including_emulation: bool) -> bool:
        return not including_emulation

    def mem_get_info(self) -> tuple[int, int]:
        return 77_000, 80_000

    def memory_reserved(self) -> int:
        return 2_000

    def max_memory_allocated(self) -> int:
        return 1_500


def test_peak_memory_is_not_that_of_the_process_before() -> None:
    """A process that held 300 MiB starts another in its place, as torchrun does: that one has held nothing yet."""
    other = "from sartor import hardware; print(hardware.peak_bytes())"
    held = f"import os, sys; bytearray(300 * 2**20); os.execv(sys.executable, [sys.executable, '-c', {other!r}])"
    said = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 200 * 2**20


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("a shape is wrong"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_was_not_given_is_known(error: Exception, wanted: bool) -> None:
    assert hardware.ran_out_of_memory(error) == wanted


def test_a_gpu_trains_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = hardware.look(tmp_path)
    assert (looked.device, looked.device_memory_bytes) == ("cpu", 0)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=FakeCuda()))
    found = hardware.with_gpu(looked.model_copy(update={"has_bf16": False}))
    assert (found.device, found.device_name, found.device_memory_bytes) == ("cuda", "fake 0", 80_000)
    assert found.has_bf16
    assert hardware.peak_bytes() == 1_500 + 1_000


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_THERE", "before")
    monkeypatch.delenv("SARTOR_NOT_THERE", raising=False)
    with pytest.raises(ValueError, match="wrong"), hardware.environment_kept(["SARTOR_THERE", "SARTOR_NOT_THERE"]):
        os.environ["SARTOR_THERE"] = os.environ["SARTOR_NOT_THERE"] = "meanwhile"
        raise ValueError("wrong")
    assert os.environ["SARTOR_THERE"] == "before"
    assert "SARTOR_NOT_THERE" not in os.environ
