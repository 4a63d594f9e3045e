"""How a step is dealt out to ranks, who writes, and that nothing is lost or counted twice."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sartor.backends.fake import FakeBackend
from sartor.backends.ranks import Alone, Place, SharedRun, cut, here, idle, keeper, share
from sartor.data.pack import Segment, pack
from sartor.objectives import sft
from sartor.store import Run
from sartor.types import Batch

from ..plans import plan  # noqa: TID252 - the tests are no package that could be imported by name


def batches(count: int, *, micro_tokens: int, seed: int = 0) -> list[Batch]:
    draw = random.Random(seed)
    made = []
    for number in range(count):
        length = draw.randint(2, 12)
        tokens = tuple(draw.randrange(64) for _ in range(length))
        made.append(Segment(f"row {number}", tokens, (*tokens[1:], number), (0.0, *[1.0] * (length - 1))))
    return pack(made, micro_tokens=micro_tokens)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("micro_tokens", [1, 20, 10_000])
def test_every_row_goes_to_one_rank_and_all_ranks_compute_as_often(size: int, micro_tokens: int) -> None:
    step = batches(7, micro_tokens=micro_tokens)
    dealt = [share(step, Place(rank, size)) for rank in range(size)]
    assert {len(own) for own in dealt} == {-(-len(step) // size)}
    rows = [row for own in dealt for batch in own for row in batch.rows if row]
    assert sorted(rows) == sorted(row for batch in step for row in batch.rows)
    assert sum(sft.weight(batch) for own in dealt for batch in own) == sum(sft.weight(batch) for batch in step)


def test_one_rank_gets_the_step_as_it_is() -> None:
    step = batches(5, micro_tokens=10)
    assert share(step, Place()) == step


def test_the_gradient_of_a_dealt_step_is_that_of_the_step() -> None:
    step = batches(7, micro_tokens=10_000)
    weight = sum(sft.weight(batch) for batch in step)
    gradients = []
    for dealt in (step, [batch for rank in range(3) for batch in share(step, Place(rank, 3))]):
        backend = FakeBackend(plan())
        for batch in dealt:
            backend.forward_backward(batch, sft, sft.Config(), weight)
        gradients.append(backend._table_VV.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-7


def test_a_batch_is_cut_between_segments_into_about_equal_parts() -> None:
    (batch,) = batches(40, micro_tokens=10_000)
    parts = cut(batch, 4)
    assert len(parts) == 4
    assert max(part.num_tokens for part in parts) < 1.3 * batch.num_tokens / 4
    assert np.array_equal(np.concatenate([part.tokens_T for part in parts]), batch.tokens_T)
    for part in parts:
        assert (part.offsets_S1[0], part.offsets_S1[-1]) == (0, part.num_tokens)
        assert len(part.rows) == len(part.offsets_S1) - 1
        assert (part.positions_T[part.offsets_S1[:-1]] == 0).all()


def test_more_ranks_than_segments_leave_some_idle() -> None:
    step = batches(2, micro_tokens=10_000)
    dealt = [share(step, Place(rank, 5)) for rank in range(5)]
    assert sum(not any(own[0].rows) for own in dealt) == 3
    assert (idle().num_tokens, idle().num_supervised, idle().rows) == (1, 0, ("",))


def test_only_torchrun_makes_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert here() == Place()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert here() == Place(rank=3, size=4, local_rank=1, local_size=2)


class Notes:
    """Something to save, which remembers what was done with it."""

    def __init__(self) -> None:
        self.saved: list[Path] = []
        self.loaded: list[Path] = []

    def save(self, folder: Path) -> None:
        (folder / "notes").write_text("x")
        self.saved.append(folder)

    def load(self, folder: Path) -> None:
        assert (folder / "notes").read_text() == "x"
        self.loaded.append(folder)


def test_only_rank_0_leaves_files_and_all_load_the_same(tmp_path: Path) -> None:
    first, second = Notes(), Notes()
    leader = SharedRun(Run(tmp_path), Place(0, 2), lambda value: value)
    follower = SharedRun(Run(tmp_path), Place(1, 2), lambda value: 7.0)  # what rank 0 found
    assert leader.restore([first], "d") == 0
    follower.save(7, [second], "d")
    follower.export(second.save)
    assert list(tmp_path.iterdir()) == []
    assert len(second.saved) == 2
    assert not any(folder.exists() for folder in second.saved)
    leader.save(7, [first], "d")
    assert leader.restore([first], "d") == follower.restore([second], "d") == 7
    assert first.loaded == second.loaded == [tmp_path / "checkpoints/step-000007"]


def test_one_process_keeps_its_run_itself(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert keeper(run, Place(), float) is run
    assert isinstance(keeper(run, Place(1, 2), float), SharedRun)


def test_alone_there_is_nothing_to_share() -> None:
    import torch

    alone, tensor = Alone(), torch.ones(3)
    assert (alone.sum(2.5), alone.join(["a"])) == (2.5, ["a"])
    assert alone.gather(tensor) == [tensor]
    assert alone.whole(tensor) is tensor
    assert alone.part(tensor, torch.zeros(3)) is tensor
    alone.reduce([tensor])
    assert tensor.tolist() == [1, 1, 1]
