"""The accelerators: names that are understood, figures that can be true."""

from __future__ import annotations

import pytest

from sartor.accelerators import ACCELERATORS, machine
from sartor.errors import UserError


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("h100x8", "h100", 8),
        ("mi300x8", "mi300x", 8),
        ("h200", "h200", 1),
        ("a100-80x4", "a100-80", 4),
        ("l4", "l4", 1),
        ("rtx4090", "rtx4090", 1),
        ("RTX4090x2", "rtx4090", 2),
        (" T4 ", "t4", 1),
        ("mi300x", "mi300x", 1),
        ("mi300xx8", "mi300x", 8),
    ],
)
def test_names_are_understood(text: str, name: str, count: int) -> None:
    found = machine(text)
    assert (found.accelerator.name, found.count) == (name, count)
    assert found.name == (name if count == 1 else f"{name}x{count}")


@pytest.mark.parametrize(
    ("text", "hint"), [("h10", "did you mean 'h100'"), ("h100x0", "from 1 to"), ("h100x9999", "h100x8"), ("", "known:")]
)
def test_what_is_not_known_is_answered_with_what_is(text: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        machine(text)
    assert hint in caught.value.hint


def test_figures_can_be_true() -> None:
    assert len({accelerator.name for accelerator in ACCELERATORS}) == len(ACCELERATORS)
    for accelerator in ACCELERATORS:
        assert 10e9 <= accelerator.memory_bytes <= 300e9
        assert accelerator.dtype in ("bfloat16", "float32")
        assert 5e12 < accelerator.flops < 5e15
        assert 1e11 < accelerator.bandwidth < 1e13
        assert 1e10 < accelerator.link < 3e12
        assert accelerator.maker in accelerator.source
    by_name = {accelerator.name: accelerator for accelerator in ACCELERATORS}
    assert by_name["h100"].flops == by_name["h200"].flops, "the same chip with more memory"
    assert by_name["h100"].flops < 1.0e15, "dense, not the rate with sparsity"
