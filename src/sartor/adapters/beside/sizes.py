"""The sizes of networks, for themselves and for their counts; nothing heavy is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sartor.hub import Shape

#: Norms within a head; all others are of the stream.
HEAD_NORMS = ("q_norm", "k_norm")


def narrow_head(size: int, r: int) -> int:
    """1/r of a head, as an even number, which rotation needs."""
    return max(2, size // (2 * r) * 2)


def narrowed(shape: Shape, r: int) -> Shape:
    """A model of 1/r of the widths, with as many heads."""
    width, head = shape.hidden // r, narrow_head(shape.head_dim, r)
    norms = tuple((path, head if path.endswith(HEAD_NORMS) else width) for path, _ in shape.norms)
    return shape.model_copy(update={"hidden": width, "inner": shape.inner // r, "head_dim": head, "norms": norms})


def num_kept(size: int, density: float) -> int:
    """How many entries of a weight a branch may change."""
    return max(1, round(size * density))
