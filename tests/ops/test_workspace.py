"""Buffers grow and stay; a forward whose backward is still to come keeps its own."""

from __future__ import annotations

import torch

from sartor.ops.workspace import Buffers, Workspace


def test_a_buffer_grows_to_its_largest_size_and_stays() -> None:
    buffers = Buffers(0)
    small = buffers.take("x", 0, (2, 3), torch.float32)
    assert (small.shape, small.is_contiguous()) == ((2, 3), True)
    large = buffers.take("x", 0, (4, 5), torch.float32)
    again = buffers.take("x", 0, (3, 5), torch.float32)
    assert again.data_ptr() == large.data_ptr()
    assert buffers.num_bytes == 4 * 5 * 4
    assert buffers.take("x", 0, (0, 7), torch.float32).shape == (0, 7)


def test_memory_for_all_tokens_is_laid_out_at_once() -> None:
    buffers = Buffers(100)
    few = buffers.take("x", 0, (2, 3), torch.float32)
    assert few.shape == (2, 3)
    assert buffers.num_bytes == 100 * 3 * 4
    assert buffers.take("x", 0, (90, 3), torch.float32).data_ptr() == few.data_ptr()
    assert buffers.take("x", 0, (101, 3), torch.float32).shape == (101, 3)


def test_names_layers_and_types_have_buffers_of_their_own() -> None:
    buffers = Buffers(0)
    taken = [buffers.take(name, layer, (4,), torch.float32) for name in "ab" for layer in (0, 1)]
    assert len({item.data_ptr() for item in taken}) == 4
    assert buffers.take("a", 0, (4,), torch.bfloat16).dtype == torch.bfloat16
    assert buffers.num_bytes == 3 * 16 + 8, "the one of the other type was given back"


def test_scratch_is_shared_by_all_who_name_it() -> None:
    workspace = Workspace()
    first, second = (workspace.scratch("x", (3,), torch.float32) for _ in range(2))
    assert first.data_ptr() == second.data_ptr()


def test_rounds_that_overlap_share_nothing_and_one_that_ended_serves_the_next() -> None:
    workspace = Workspace()
    one, other = workspace.begin(), workspace.begin()
    kept = one.save("x", 0, (3,), torch.float32).fill_(1.0)
    assert other.save("x", 0, (3,), torch.float32).data_ptr() != kept.data_ptr()
    one.end()
    third = workspace.begin()
    assert third.save("x", 0, (3,), torch.float32).data_ptr() == kept.data_ptr()
    other.end()
    assert workspace.begin().save("x", 0, (3,), torch.float32).data_ptr() != kept.data_ptr()


def test_saved_is_apart_from_scratch() -> None:
    workspace = Workspace()
    scratch = workspace.scratch("x", (3,), torch.float32)
    assert workspace.begin().save("x", 0, (3,), torch.float32).data_ptr() != scratch.data_ptr()
