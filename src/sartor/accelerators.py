"""Accelerators known by name, for planning on machines that one does not have. Facts from the makers' datasheets, but
for the memory: that is what PyTorch says a process can have, a little less than the name promises.

`h100x8` is eight of them in one machine. Peaks are dense: where a datasheet prints the rate with sparsity, half of it.
"""

# ruff: noqa: E501 - a table is read by its rows

from __future__ import annotations

import re

from sartor.errors import UserError
from sartor.names import suggest
from sartor.types import Frozen

GIB, GB, TERA = 2**30, 10**9, 1e12
MOST_DEVICES = 1024
DEVICES_A_HOST = 8  # links of the datasheets join this many; beyond, a network does


class Accelerator(Frozen):
    """One device. `flops` at the best type it trains in, `bandwidth` of its memory, `link` to its neighbours: all a second."""

    name: str
    maker: str
    memory_bytes: int
    dtype: str
    flops: float
    bandwidth: float
    link: float
    link_name: str
    source: str


class Machine(Frozen):
    """So many devices of one kind."""

    accelerator: Accelerator
    count: int

    @property
    def name(self) -> str:
        return f"{self.accelerator.name}x{self.count}" if self.count > 1 else self.accelerator.name


#: Name, maker, memory in GiB, type, dense TFLOP/s, memory bandwidth in GB/s, link in GB/s (both directions together), its name, source.
_TABLE = (
    ("t4", "NVIDIA", 14.56, "float32", 8.1, 300, 32, "PCIe 3", "NVIDIA T4 datasheet; no bf16 products, so fp32"),
    ("v100-32", "NVIDIA", 31.73, "float32", 15.7, 900, 300, "NVLink 2", "NVIDIA V100 datasheet, SXM2; no bf16 products, so fp32"),
    ("a10", "NVIDIA", 21.98, "bfloat16", 125, 600, 64, "PCIe 4", "NVIDIA A10 datasheet"),
    ("a100-40", "NVIDIA", 39.38, "bfloat16", 312, 1555, 600, "NVLink 3", "NVIDIA A100 datasheet, SXM"),
    ("a100-80", "NVIDIA", 79.14, "bfloat16", 312, 2039, 600, "NVLink 3", "NVIDIA A100 datasheet, SXM"),
    ("a6000", "NVIDIA", 47.41, "bfloat16", 154.8, 768, 112, "NVLink 3", "NVIDIA RTX A6000 datasheet"),
    ("l4", "NVIDIA", 21.95, "bfloat16", 121, 300, 64, "PCIe 4", "NVIDIA L4 datasheet"),
    ("l40s", "NVIDIA", 44.39, "bfloat16", 362, 864, 64, "PCIe 4", "NVIDIA L40S datasheet"),
    ("h100", "NVIDIA", 79.1, "bfloat16", 989, 3350, 900, "NVLink 4", "NVIDIA H100 datasheet, SXM"),
    ("h200", "NVIDIA", 139.8, "bfloat16", 989, 4800, 900, "NVLink 4", "NVIDIA H200 datasheet, SXM"),
    ("b200", "NVIDIA", 178.3, "bfloat16", 2250, 8000, 1800, "NVLink 5", "NVIDIA DGX B200 datasheet, an eighth of it"),
    ("rtx3090", "NVIDIA", 23.57, "bfloat16", 71, 936, 64, "PCIe 4", "NVIDIA Ampere GA102 whitepaper"),
    ("rtx4090", "NVIDIA", 23.52, "bfloat16", 165.2, 1008, 64, "PCIe 4", "NVIDIA Ada whitepaper, sums in fp32"),
    ("rtx5090", "NVIDIA", 31.36, "bfloat16", 209.5, 1792, 128, "PCIe 5", "NVIDIA RTX Blackwell whitepaper, sums in fp32"),
    ("mi300x", "AMD", 191.69, "bfloat16", 1307.4, 5300, 896, "Infinity Fabric", "AMD Instinct MI300X datasheet"),
)  # fmt: skip

ACCELERATORS: tuple[Accelerator, ...] = tuple(
    Accelerator(
        name=name,
        maker=maker,
        memory_bytes=int(memory * GIB),
        dtype=dtype,
        flops=teraflops * TERA,
        bandwidth=float(bandwidth * GB),
        link=float(link * GB),
        link_name=link_name,
        source=source,
    )
    for name, maker, memory, dtype, teraflops, bandwidth, link, link_name, source in _TABLE
)


def machine(text: str) -> Machine:
    """`h200`, `h100x8`, `a100-80x4`: an accelerator and how many of it.

    Raises:
        UserError: the name or the number is not known.
    """
    names = {accelerator.name: accelerator for accelerator in ACCELERATORS}
    asked = text.strip().lower()
    found = re.fullmatch(r"(.+?)x(\d+)", asked)
    name, count = (found[1], int(found[2])) if found and asked not in names else (asked, 1)
    if f"{name}x" in names:  # mi300x8
        name += "x"
    if name not in names:
        raise UserError(f"no accelerator {asked!r}", hint=f"{suggest(asked, tuple(names))}; eight of one: h100x8")
    if not 1 <= count <= MOST_DEVICES:
        raise UserError(f"{count} devices of {name}", hint=f"from 1 to {MOST_DEVICES}, for example {name}x8")
    return Machine(accelerator=names[name], count=count)
