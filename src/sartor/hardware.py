"""What this machine has: cores, memory, disk, and how fast it multiplies matrices."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sartor.types import Frozen

#: oneDNN keeps a compiled product for each shape, and no two steps have the same number of tokens: its default of 1,024
#: held 2 GiB after 180 steps. 16 is fewer than one step has, and costs a fifth of the speed. It must be set before the
#: first product of the process.
ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "48"}
#: Read by cuBLAS at its first product: with it, equal products have equal bits.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

#: Options of `mallopt`: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD. By itself glibc gives the activations of a layer back to
#: the system, and gets them from it page by page for the next one: a tenth of the time in which prompts are read.
KEPT_BY_GLIBC = {-1: 64 << 20, -3: 32 << 20}

SYSTEM = Path("/")  # the folder of /proc and /sys
#: What Linux calls products of bf16: on x86 the first two, on ARM the last.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
#: What bounds a container: hierarchy of control groups ("": version 2, "memory": version 1) -> the files of limit and
#: use, and the line of `memory.stat` with the cached files that are given up when memory is short.
MEMORY_GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def prepare_environment() -> None:
    """Set what the libraries read once, when they start, and how glibc keeps memory; what the user has set stays."""
    for name, value in (ENVIRONMENT | DETERMINISTIC).items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(AttributeError):  # another C library, which has no such function
            for option, num_bytes in KEPT_BY_GLIBC.items():
                ctypes.CDLL(None).mallopt(option, num_bytes)


@contextmanager
def environment_kept(names: Iterable[str]) -> Iterator[None]:
    """Leave variables of the environment as they were before, whatever is done to them meanwhile."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Product(NamedTuple):
    """One matrix product: (rows, inner) times (inner, columns)."""

    rows: int
    inner: int
    columns: int


#: The products of a layer of SmolLM2-135M at 1,024 tokens: those with one input are one.
TYPICAL = (Product(1024, 576, 960), Product(1024, 576, 576), Product(1024, 576, 3072), Product(1024, 1536, 576))
ROUNDS = 8  # in which products are measured


class Hardware(Frozen):
    """Bytes, and matrix-product speed in FLOP/s (0 = not measured).

    `has_bf16` and `flops` are of the device that trains. A GPU has a name and a memory of its own; a CPU has neither.
    """

    processor: str
    num_cores: int
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    has_bf16: bool
    flops: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"
    device_name: str = ""
    device_memory_bytes: int = 0


def look(folder: Path) -> Hardware:
    """What can be read without computing, and without torch: so nothing of a GPU.

    In a container, what it may use: its part of the machine's memory and cores.
    """
    return Hardware(
        processor=_cpu_info("model name") or platform.processor() or platform.machine(),
        num_cores=_num_cores(),
        memory_bytes=memory_bytes(),
        free_memory_bytes=max(0, min([_memory("MemAvailable"), *(left for _, left in _memory_limits())])),
        free_disk_bytes=shutil.disk_usage(folder).free,
        has_bf16=_has_bf16(),
    )


def is_amd() -> bool:
    """Whether AMD made this processor."""
    return _cpu_info("vendor_id") == "AuthenticAMD"


def with_gpu(hardware: Hardware) -> Hardware:
    """The same with the first GPU as the device that trains, if there is one. Loads torch."""
    import torch

    if not torch.cuda.is_available():
        return hardware
    found = torch.cuda.get_device_properties(0)
    return hardware.model_copy(
        update={
            "device": "cuda",
            "device_name": found.name,
            "device_memory_bytes": found.total_memory,
            "has_bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    )


def measure_flops(
    dtype: str,
    num_threads: int,
    multiply: Callable[[Any, Any, Any], object],
    *,
    products: Sequence[Product] = TYPICAL,
    device: str = "cpu",
) -> float:
    """FLOP/s of matrix products as training has them: out = x Wᵀ and the gradient of x, one product after the other.

    `multiply(a, b, out)` is what training calls.

    The median of `ROUNDS`, each with other weights: so no cache is warm, and neither a busy moment nor a lucky one
    decides. Give the products of the model that is to be trained: what a processor reaches depends on their shape.
    """
    import torch

    torch.set_num_threads(num_threads)

    def make(rows: int, columns: int) -> Any:
        return torch.randn(rows, columns).to(device, vars(torch)[dtype])

    operands = [(make(rows, inner), make(rows, columns), make(rows, inner)) for rows, inner, columns in products]
    flops = sum(4.0 * rows * inner * columns for rows, inner, columns in products)
    seconds = []
    for _ in range(ROUNDS):
        weights = [make(columns, inner) for _, inner, columns in products]
        start = time.perf_counter()
        for (inputs, outputs, gradient), weight in zip(operands, weights, strict=True):
            multiply(inputs, weight.t(), outputs)
            multiply(outputs, weight, gradient)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return flops / statistics.median(seconds)


def memory_bytes() -> int:
    """Bytes of memory that this machine has, or that this container may use of it."""
    return min([_memory("MemTotal"), *(limit for limit, _ in _memory_limits())])


def peak_bytes() -> int:
    """The most memory this process held (its high-water mark), since `release_memory` where the system can do that.

    Of a process that computes on a GPU, that of the GPU: tensors at their most, and beside them what the device holds
    that no tensor needs, libraries and other processes.
    """
    cuda = _cuda()
    if cuda is not None:
        free, total = cuda.mem_get_info()
        return int(cuda.max_memory_allocated() + total - free - cuda.memory_reserved())
    if sys.platform == "linux":  # where `getrusage` keeps the peak of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch says that memory was asked for and not given."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def release_memory() -> None:
    """Give back what the work before left behind, and start the high-water mark anew (on Linux, with glibc)."""
    gc.collect()
    cuda = _cuda()
    if cuda is not None:
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
    return_freed_memory()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # no right to reset: only less tidy
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def return_freed_memory() -> None:
    """Give the system what was freed between blocks that are still held: glibc keeps it, and large blocks never use it.

    Call it while many weights are laid out anew, or the process holds all of them twice.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such function
            ctypes.CDLL(None).malloc_trim(0)


def _cuda() -> Any:
    """`torch.cuda` where this process computes there, else None. It is not loaded to find that out."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16. Apple's do since the M2, Intel's in a Mac never."""
    if sys.platform == "darwin":
        asked = ["/usr/sbin/sysctl", "-n", "hw.optional.arm.FEAT_BF16"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == "1"
    return not BF16_FLAGS.isdisjoint((_cpu_info("flags") or _cpu_info("Features")).split())


def _num_cores() -> int:
    """The cores that this process may run on, or the time of so many, rounded up."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    version_1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    shares = [_text(folder / "cpu.max") for folder in _control_groups("")]
    shares += ["".join(_text(folder / name) for name in version_1) for folder in _control_groups("cpu")]
    pairs = [share.split() for share in shares if share]
    # "max" and -1: no limit.
    bounds = [math.ceil(int(quota) / int(period)) for quota, period in pairs if quota.isdigit()]
    return max(1, min([cores, *bounds]))


def _memory_limits() -> Iterator[tuple[int, int]]:
    """For each control group of this process with a limit on memory: the limit, and how much of it is left."""
    for hierarchy, (limit, use, cache) in MEMORY_GROUPS.items():
        for folder in _control_groups(hierarchy):
            most = _text(folder / limit).strip()
            if most.isdigit():  # "max": no limit
                used = int(_text(folder / use) or 0)
                cached = dict(line.split() for line in _text(folder / "memory.stat").splitlines()).get(cache, 0)
                yield int(most), int(most) - used + int(cached)


def _control_groups(hierarchy: str) -> Iterator[Path]:
    """The folders of this process's control groups in a hierarchy, its own first, up to the outermost that it sees.

    In a container its own may have a name that only the host sees; then the outermost one is its own.
    """
    top = SYSTEM / "sys/fs/cgroup" / hierarchy
    for line in _text(SYSTEM / "proc/self/cgroup").splitlines():
        _, names, place = line.split(":", 2)
        if hierarchy in names.split(","):
            own = top / place.lstrip("/")
            yield from (own, *own.parents[: len(own.parts) - len(top.parts)])


def _text(path: Path) -> str:
    """What a file of the system says; nothing where there is no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _cpu_info(key: str) -> str:
    for line in _text(SYSTEM / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _memory(key: str) -> int:
    path = SYSTEM / "proc/meminfo"
    if not path.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
