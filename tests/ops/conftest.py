"""What the tests of kernels and blocks share: tensors made twice alike, forests, adapted layers, kernels switched off.

Shapes: T tokens · C columns of heads · R rotated pairs of a head.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sartor import hardware
from sartor.data.fold import fold
from sartor.data.pack import Segment, pack
from sartor.ops import forest_attention, native, pointwise, product, quantised
from sartor.ops.block import Pass, Tools
from sartor.ops.forest_attention import Forest
from sartor.ops.lora_linear import AugmentedLoraLinear
from sartor.ops.stream_norm import StreamNorm
from sartor.ops.workspace import Workspace

#: Numbers of tokens round the sizes that kernels work in: 16 lanes, blocks of 48 queries.
COUNTS = (1, 15, 17, 47, 48, 49, 97)
ELEMENTS = (torch.float32, torch.bfloat16)
#: A bf16 has 8 significant bits: rounding to nearest moves a value by up to 2^-8 of it; a little more is for fp32 sums.
ONE_ROUNDING = 2**-8 * 1.01


def forget_kernels() -> None:
    """Have the next call look again whether there are kernels."""
    kernels = (pointwise.pointwise, forest_attention.attention, product.products, quantised._kernels)
    for cached in (native.load, native.made, native.compiler, *kernels):
        cached.cache_clear()


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without a compiler."""
    monkeypatch.setenv(native.OFF, "0")
    forget_kernels()
    yield
    forget_kernels()


#: Options that make a processor a plainer one. Those without AVX have nothing that could be left out.
PLAINER = ("-mno-avx512f", "-mno-avx") if platform.machine() == "x86_64" else ("",)


@pytest.fixture(params=PLAINER)
def plainer_processor(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels as on an x86 processor with shorter vectors, or as few as every one has."""
    assert native.compiler(), native.problem()
    monkeypatch.setenv("CXX", f"{native.compiler()[0]} {request.param}")
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path))
    forget_kernels()
    yield
    forget_kernels()


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor of AMD's."""
    monkeypatch.setattr(hardware, "is_amd", lambda: True)
    forget_kernels()
    yield
    forget_kernels()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Distance as a share of the length of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def forest_of(offsets: list[int], parents: list[int]) -> Forest:
    return Forest(torch.tensor(offsets, dtype=torch.int32), torch.tensor(parents, dtype=torch.int32))


def random_forest(seed: int) -> Forest:
    """What folding makes of conversations that share a system prompt, some of them few-shot blocks as well."""
    draw = random.Random(seed)
    beginnings: list[list[int]] = [[]]
    for _ in range(4):  # each goes on from an earlier one, so there are several depths
        beginnings.append([*draw.choice(beginnings), *draw.choices(range(1, 50), k=draw.randint(1, 40))])
    rows = []
    for number in range(draw.randint(2, 9)):
        ids = [*draw.choice(beginnings), *draw.choices(range(1, 50), k=draw.randint(3, 60))]
        rows.append(Segment(f"row {number}", tuple(ids[:-1]), tuple(ids[1:]), (1.0,) * (len(ids) - 1)))
    (batch,) = pack(rows, micro_tokens=100_000)
    folded = fold(batch, shortest=draw.choice((1, 16)))
    return Forest(torch.from_numpy(folded.offsets_P1), torch.from_numpy(folded.parents_P))


class Made:
    """Random tensors for a kernel of one element type or, from the same values, for its twin in fp64.

    Rows of elements are columns of wider rows; `untouched` says whether what stands beside them still does.
    """

    def __init__(self, element: torch.dtype, count: int, *, exact: bool, device: str = "cpu") -> None:
        self._element, self._count, self._exact, self._device = element, count, exact, device
        self._generator = torch.Generator().manual_seed(count)
        self._beside: list[torch.Tensor] = []

    def wide(self, *shape: int) -> torch.Tensor:
        """Values in the type of the residual stream."""
        values = torch.randn(shape, generator=self._generator).to(self._device)
        return values.double() if self._exact else values

    def rows(self, width: int, *, scale: float = 1.0, room: int = 16) -> torch.Tensor:
        """(T, width) values in the element type, with as many as `room` others between two rows."""
        values = (torch.randn(self._count, width + room, generator=self._generator) * scale).to(self._element)
        if room:
            values[:, width:] = 7.0
        whole = (values.double() if self._exact else values).to(self._device)
        self._beside.append(whole[:, width:])
        return whole[:, :width]

    def unset(self, width: int) -> torch.Tensor:
        """Rows to be filled in."""
        return self.rows(width).fill_(float("nan"))

    def unset_wide(self, *shape: int) -> torch.Tensor:
        return self.wide(*shape).fill_(float("nan"))

    @property
    def untouched(self) -> bool:
        return all(bool((item == 7.0).all()) for item in self._beside)


class Parts(nn.Module):
    """A place for layers that PEFT can put adapters on."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self) -> None: ...


def adapted(
    sizes: Mapping[str, tuple[int, int]],
    *,
    rank: int = 2,
    bias: bool = False,
    dtype: torch.dtype = torch.float64,
    base: bool = False,
    **lora: Any,
) -> dict[str, nn.Module]:
    """Linear layers of (inputs, outputs) with awake adapters of ours, or bare ones at rank 0; `base`: trained too."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    layers: dict[str, nn.Module] = {name: nn.Linear(*size, bias=bias) for name, size in sizes.items()}
    parts = Parts(layers)
    if rank:
        config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=list(sizes), **lora)
        config._register_custom_module({nn.Linear: AugmentedLoraLinear})
        get_peft_model(parts, config)
    parts.to(dtype)
    for name, weight in parts.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, dtype=torch.float32 if dtype in ELEMENTS else dtype) * 0.3
        else:
            weight.requires_grad_(base)
    return dict(parts.named_children())


def norm_of(width: int, *, trained: bool = False, dtype: torch.dtype = torch.float64) -> StreamNorm:
    module = nn.RMSNorm(width, eps=1e-5, dtype=dtype)
    module.weight.data = 1.0 + torch.randn(width, generator=torch.Generator().manual_seed(width), dtype=dtype) * 0.3
    module.weight.requires_grad_(trained)
    return StreamNorm(module, dtype)


def plain_tools() -> Tools:
    """The twins, in fp64."""
    return Tools(pointwise.Plain(), forest_attention.Plain(), Workspace(), torch.float64, torch.float64)


def pass_of(tools: Tools, forest: Forest, num_pairs: int, recompute: frozenset[str] = frozenset()) -> Pass:
    """A pass over a forest with the usual rotation, and memory of its own for a backward."""
    positions_T = torch.cat([positions for _, _, positions in forest.trees()])
    speeds_R = 100.0 ** -(torch.arange(num_pairs) / num_pairs)
    angles_TR = (positions_T[:, None] * speeds_R).to(tools.stream_dtype)
    return Pass(forest, angles_TR.cos(), angles_TR.sin(), tools.workspace.begin(), recompute)


class Again(torch.autograd.Function):
    """A hand-written block gives up what it saved with its first backward; `gradcheck` wants several. So: run again."""

    @staticmethod
    def forward(ctx: Any, run: Any, *inputs: torch.Tensor) -> torch.Tensor:
        ctx.run, ctx.inputs = run, inputs
        with torch.no_grad():
            result: torch.Tensor = run()
        return result

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with torch.enable_grad():
            found = torch.autograd.grad(ctx.run(), ctx.inputs, upstream[0])
        return (None, *found)


def gradients_are_right(run: Any, *inputs: torch.Tensor) -> bool:
    """Compare hand-written gradients with differences, in fp64. `run()` computes anew from `inputs` as they stand."""
    checked: bool = torch.autograd.gradcheck(lambda *given: Again.apply(run, *given), inputs, fast_mode=True)
    return checked
