"""The GPU's flat attention: on the CPU it is its plain twin; the arguments of the kernel; what it refuses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import Unsupported
from sartor.ops import attention, varlen

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
OFFSETS = torch.tensor([0, 5, 6, 18], dtype=torch.int32)


def heads(count: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(1, H, 18, 16)."""
    return torch.randn(1, count, 18, 16, generator=torch.Generator().manual_seed(seed)).to(dtype)


def as_kernel(asked: dict[str, Any]) -> torch.Tensor:
    """What `varlen_attn` documents of its arguments, by plain attention of each segment: (T, H, D)."""
    assert asked["window_size"] == (-1, 0)
    spans = [list(pairwise(asked[name].tolist())) for name in ("cu_seq_q", "cu_seq_k", "cu_seq_k")]
    assert all(
        max(end - start for start, end in of) <= asked[most]
        for of, most in zip(spans[:2], ("max_q", "max_k"), strict=True)
    )
    parts = []
    for places in zip(*spans, strict=True):
        query, key, value = (
            asked[name][start:end].transpose(0, 1)[None]
            for name, (start, end) in zip(("query", "key", "value"), places, strict=True)
        )
        length, num_keys = query.shape[2], key.shape[2]
        last = torch.ones(length, num_keys, dtype=torch.bool).tril(num_keys - length)  # queries are of the last keys
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=last, scale=asked["scale"], enable_gqa=asked["enable_gqa"]
        )
        parts.append(output[0].transpose(0, 1))
    return torch.cat(parts)


def test_on_the_cpu_it_is_its_twin() -> None:
    inputs = (heads(4, 0), heads(2, 1), heads(2, 2))
    found, _ = varlen.flat_attention(nn.Module(), *inputs, None, cu_seq_lens_q=OFFSETS, max_length_q=12, scaling=0.3)
    wanted, _ = attention.flat_attention(nn.Module(), *inputs, None, cu_seq_lens_q=OFFSETS, scaling=0.3)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("num_keys", [4, 2])
def test_the_kernel_is_asked_for_what_the_twin_computes(num_keys: int) -> None:
    inputs = (heads(4, 0), heads(num_keys, 1), heads(num_keys, 2))
    asked = varlen.prepared(
        *(part.bfloat16() for part in inputs), None, cu_seq_lens_q=OFFSETS, max_length_q=16, scaling=0.3
    )
    assert asked["enable_gqa"] is (num_keys == 2)
    assert {asked[name].dtype for name in ("query", "key", "value")} == {torch.bfloat16}
    wanted, _ = attention.flat_attention(nn.Module(), *inputs, None, cu_seq_lens_q=OFFSETS, scaling=0.3)
    assert float((as_kernel(asked).float() - wanted[0]).abs().max()) < 0.03


def prefix_of(device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[nn.Module, list[Any]]:
    """A module of the first layer, and keys and values of five tokens for it."""
    module, draw = nn.Module(), torch.Generator().manual_seed(5)
    module.layer_idx = 0
    pair = tuple(torch.randn(5, 32, generator=draw).to(device, dtype).requires_grad_() for _ in range(2))
    return module, [pair]


def test_the_kernel_is_asked_for_a_prefix_before_every_segment() -> None:
    inputs, (module, prefix) = (heads(4, 0), heads(2, 1), heads(2, 2)), prefix_of()
    earlier = attention.prefix_of(module, prefix, inputs[2])
    asked = varlen.prepared(
        *(part.bfloat16() for part in inputs), None, cu_seq_lens_q=OFFSETS, max_length_q=16, scaling=0.3,
        earlier=earlier,
    )  # fmt: skip
    assert asked["cu_seq_k"].tolist() == [0, 10, 16, 33]
    wanted, _ = attention.flat_attention(module, *inputs, None, cu_seq_lens_q=OFFSETS, scaling=0.3, prefix=prefix)
    assert float((as_kernel(asked).float() - wanted[0]).detach().abs().max()) < 0.03


def test_empty_segments_at_the_end_have_a_prefix_and_no_query() -> None:
    inputs, (module, prefix) = (heads(4, 0), heads(2, 1), heads(2, 2)), prefix_of()
    ends = torch.tensor([0, 5, 18, 18, 18], dtype=torch.int32)
    earlier = attention.prefix_of(module, prefix, inputs[2])
    asked = varlen.prepared(
        *(part.bfloat16() for part in inputs), None, cu_seq_lens_q=ends, max_length_q=16, earlier=earlier
    )
    assert asked["cu_seq_k"].tolist() == [0, 10, 28, 33, 38]
    assert torch.equal(asked["key"][28:33], asked["key"][33:])


def test_queries_that_rotation_left_in_fp32_are_rounded_once() -> None:
    asked = varlen.prepared(
        heads(4, 0), heads(4, 1), heads(4, 2, torch.bfloat16), None, cu_seq_lens_q=OFFSETS, max_length_q=12
    )
    assert asked["query"].dtype == asked["key"].dtype == torch.bfloat16
    assert asked["scale"] is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cu_seq_lens_q": None}, "without segments"),
        ({"max_length_q": None}, "without segments"),
        ({"attention_mask": torch.ones(1)}, "an attention mask"),
        ({"dropout": 0.1}, "dropout"),
        ({"softcap": 30.0}, "a softcap"),
        ({"s_aux": torch.ones(4)}, "attention sinks"),
        ({"sliding_window": 4}, "a sliding window of 4"),
        ({"value_1GTD": heads(4, 2)}, "float32 on a GPU"),
        ({"query_1HTD": heads(4, 0).expand(2, 4, 18, 16)}, "2 rows"),
        ({"query_1HTD": torch.zeros(1, 4, 18, 320)}, "heads of 320"),
        ({"query_1HTD": torch.zeros(1, 4, 18, 100)}, "heads of 100"),
        ({"value_1GTD": torch.zeros(1, 4, 18, 32, dtype=torch.bfloat16)}, "keys of 16 beside values of 32"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused(changed: dict[str, Any], named: str) -> None:
    usual = {
        "query_1HTD": heads(4, 0, torch.bfloat16),
        "key_1GTD": heads(4, 1, torch.bfloat16),
        "value_1GTD": heads(4, 2, torch.bfloat16),
        "attention_mask": None,
        "cu_seq_lens_q": OFFSETS,
        "max_length_q": 12,
    }
    assert varlen.prepared(**usual)["max_q"] == 12
    with pytest.raises(Unsupported, match=named):
        varlen.prepared(**{**usual, **changed})


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_without_flash_attention_3_torchs_own_stays(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def missing(name: str) -> None:
        raise error(name)

    monkeypatch.setattr(varlen, "activate_flash_attention_impl", missing)
    assert varlen.use_flash_attention_3() is False


@needs_gpu
def test_the_kernel_computes_what_the_twin_does_forward_and_backward() -> None:
    found, wanted = [], []
    for device, dtype, into in (("cuda", torch.bfloat16, found), ("cpu", torch.float32, wanted)):
        inputs = [part.to(device, dtype).requires_grad_() for part in (heads(4, 0), heads(2, 1), heads(2, 2))]
        output, _ = varlen.flat_attention(
            nn.Module(), *inputs, None, cu_seq_lens_q=OFFSETS.to(device), max_length_q=12, scaling=0.3
        )
        output.float().square().sum().backward()
        into += [output.detach().float().cpu(), *[part.grad.float().cpu() for part in inputs if part.grad is not None]]
    for left, right in zip(found, wanted, strict=True):
        assert float((left - right).norm() / right.norm()) < 0.02


@needs_gpu
def test_the_kernel_computes_a_prefix_as_the_twin_does() -> None:
    found, wanted = [], []
    for device, dtype, into in (("cuda", torch.bfloat16, found), ("cpu", torch.float32, wanted)):
        inputs = [part.to(device, dtype).requires_grad_() for part in (heads(4, 0), heads(2, 1), heads(2, 2))]
        module, prefix = prefix_of(device, dtype)
        output, _ = varlen.flat_attention(
            module, *inputs, None, cu_seq_lens_q=OFFSETS.to(device), max_length_q=12, scaling=0.3, prefix=prefix
        )
        output.float().square().sum().backward()
        into += [output.detach().float().cpu(), *(part.grad.float().cpu() for part in (*inputs, *prefix[0]))]
    for left, right in zip(found, wanted, strict=True):
        assert float((left - right).norm() / right.norm()) < 0.02
