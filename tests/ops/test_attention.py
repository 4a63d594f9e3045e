"""Flat attention: equal to each segment alone, and refusing what it does not implement."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import Unsupported
from sartor.ops import attention, forest_attention
from sartor.ops.attention import flat_attention
from sartor.ops.forest_attention import Plain

OFFSETS = torch.tensor([0, 3, 10, 11], dtype=torch.int32)


def heads(count: int, *, seed: int) -> torch.Tensor:
    return torch.randn(1, count, 11, 16, generator=torch.Generator().manual_seed(seed))


def call(**changes: Any) -> torch.Tensor:
    settings = {"scaling": 0.3, "cu_seq_lens_q": OFFSETS, **changes}
    output, _ = flat_attention(nn.Module(), heads(4, seed=1), heads(2, seed=2), heads(2, seed=3), None, **settings)
    return output


@pytest.fixture(params=["native", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel, and as where there is none."""
    if request.param == "torch":
        monkeypatch.setattr(forest_attention, "attention", lambda *_: Plain())
    return str(request.param)


@pytest.mark.usefixtures("path")
def test_each_segment_is_as_if_alone() -> None:
    output = call()
    query, key, value = heads(4, seed=1), heads(2, seed=2), heads(2, seed=3)
    for start, end in ((0, 3), (3, 10), (10, 11)):
        scores = query[:, :, start:end] @ key[:, :, start:end].repeat_interleave(2, 1).transpose(2, 3) * 0.3
        causal = torch.ones(end - start, end - start).tril().bool()
        alone = F.softmax(scores.masked_fill(~causal, float("-inf")), -1) @ value[:, :, start:end].repeat_interleave(
            2, 1
        )
        torch.testing.assert_close(output[:, start:end], alone.transpose(1, 2))


def layer(number: int) -> nn.Module:
    module = nn.Module()
    module.layer_idx = number
    return module


@pytest.mark.usefixtures("path")
def test_a_prefix_is_seen_by_every_segment_and_learns_from_all() -> None:
    """A segment with the prefix written out before it is the reference."""
    draw = torch.Generator().manual_seed(4)
    prefix = [tuple(torch.randn(5, 32, generator=draw).requires_grad_() for _ in range(2)) for _ in range(2)]
    parts = (heads(4, seed=1), heads(2, seed=2), heads(2, seed=3))
    found, _ = flat_attention(layer(1), *parts, None, scaling=0.3, cu_seq_lens_q=OFFSETS, prefix=prefix)
    wanted = []
    for start, end in ((0, 3), (3, 10), (10, 11)):
        before = [item.view(5, 2, 16).transpose(0, 1)[None] for item in prefix[1]]
        query = torch.cat([torch.zeros(1, 4, 5, 16), parts[0][:, :, start:end]], dim=2)
        key, value = (torch.cat([b, own[:, :, start:end]], dim=2) for b, own in zip(before, parts[1:], strict=True))
        alone = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
        wanted.append(alone[0, :, 5:].transpose(0, 1))
    torch.testing.assert_close(found[0], torch.cat(wanted))
    upstream = torch.randn(found.shape, generator=draw)
    ours = torch.autograd.grad((found * upstream).sum(), prefix[1])
    theirs = torch.autograd.grad((torch.cat(wanted) * upstream[0]).sum(), prefix[1])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_window_must_reach_over_the_prefix() -> None:
    prefix = [(torch.zeros(5, 32), torch.zeros(5, 32))]
    asked = {"cu_seq_lens_q": OFFSETS, "prefix": prefix}
    parts = (heads(4, seed=1), heads(2, seed=2), heads(2, seed=3))
    flat_attention(layer(0), *parts, None, sliding_window=12, **asked)
    with pytest.raises(Unsupported, match="a sliding window of 11"):
        flat_attention(layer(0), *parts, None, sliding_window=11, **asked)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": torch.zeros(4)}, "sinks"),
        ({"sliding_window": 5}, "sliding window of 5"),
        ({"cu_seq_lens_q": None}, "without segments"),
    ],
)
def test_what_is_not_implemented_is_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(Unsupported, match=what):
        call(**change)


def test_who_sees_what_comes_after_is_found() -> None:
    def forward(tokens_T: torch.Tensor, positions_T: torch.Tensor, offsets_S1: torch.Tensor, *, mask: bool) -> Any:
        each_TT = torch.ones(len(tokens_T), len(tokens_T))
        return ((each_TT.tril() if mask else each_TT) @ tokens_T.double().float())[:, None]

    assert attention.find_foresight(partial(forward, mask=True), 100) == ""
    assert attention.find_foresight(partial(forward, mask=False), 100) == "a token sees those that come after it"


def test_padding_is_refused() -> None:
    mask = torch.ones(1, 1, 11, 11, dtype=torch.bool)
    with pytest.raises(Unsupported, match="an attention mask"):
        flat_attention(nn.Module(), heads(4, seed=1), heads(2, seed=2), heads(2, seed=3), mask, cu_seq_lens_q=OFFSETS)


def test_a_window_longer_than_every_segment_changes_nothing() -> None:
    torch.testing.assert_close(call(sliding_window=7), call())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_equals_the_plain_twin_and_so_do_its_gradients(dtype: torch.dtype) -> None:
    results = []
    for function in (attention._attend, attention.by_segment):
        parts = [heads(count, seed=seed)[0].to(dtype).requires_grad_() for count, seed in ((4, 4), (2, 2), (2, 9))]
        output = function(*parts, (), OFFSETS.tolist(), 0.3)
        (output.float() * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum().backward()
        results.append([output.detach(), *(part.grad for part in parts)])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == plain.dtype == dtype
        torch.testing.assert_close(ours, plain, **tolerance)


def test_gradient_check() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(count, 5, 16, generator=generator).requires_grad_() for count in (4, 2, 2)]
    assert torch.autograd.gradcheck(
        lambda *given: attention._attend(*given, (), [0, 1, 5], 0.5),
        parts,
        eps=1e-2,
        atol=1e-2,
        rtol=1e-2,
        fast_mode=True,
    )


@pytest.mark.parametrize("sizes", [(32, 16), (16, 32)])
def test_values_of_another_size_than_keys_take_torchs_own(sizes: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(6)
    parts = [torch.randn(1, 4, 11, size, generator=draw) for size in (sizes[0], *sizes)]
    found, _ = flat_attention(nn.Module(), *parts, None, scaling=0.3, cu_seq_lens_q=OFFSETS)
    assert found.shape == (1, 11, 4, sizes[1])
    wanted = attention.by_segment(*(part[0] for part in parts), (), OFFSETS.tolist(), 0.3)
    assert torch.equal(found[0], wanted)


def test_heads_of_a_size_without_a_kernel_take_torchs_own() -> None:
    parts = [heads(count, seed=count)[..., :8] for count in (4, 2, 2)]
    found, _ = flat_attention(nn.Module(), *parts, None, scaling=0.3, cu_seq_lens_q=OFFSETS)
    wanted = attention.by_segment(*(part[0] for part in parts), (), OFFSETS.tolist(), 0.3)
    assert torch.equal(found[0], wanted)
