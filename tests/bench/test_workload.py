"""Workloads: rendered once, masked, cut, described; and the peers' best order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import workload
from contestants import common
from sartor.errors import DataError
from sartor.hub import Shape

SMOLLM2 = Shape(
    num_layers=30,
    hidden=576,
    inner=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab=49152,
    tied=True,
    context=8192,
)
ANY = workload.Kind("any", "here", lambda package, calls: [], 2, shortest=1, longest=1000)


def demo(**changes: Any) -> workload.Workload:
    facts = {"ids": ((1, 2), (1, 4), (1, 6)), "labels": ((-100, 2), (-100, 4), (-100, 6))}
    return workload.Workload("demo", "here", 2, **{**facts, **changes})


def test_rows_are_rendered_once_masked_and_shuffled_alike(smollm2_folder: Path, smollm2_tokenizer: Any) -> None:
    chats: Any = [(("user", f"Say {word}."), ("assistant", word)) for word in ("one", "two", "three", "four", "one")]
    first, second = (workload.render("demo", ANY, chats, smollm2_folder) for _ in range(2))
    assert len(first.ids) == 4
    assert first == second
    assert first.digest == second.digest
    answers = set()
    for ids, labels in zip(first.ids, first.labels, strict=True):
        assert len(ids) == len(labels)
        assert all(label in (token, common.IGNORED) for token, label in zip(ids, labels, strict=True))
        answers.add(smollm2_tokenizer.decode([label for label in labels if label != common.IGNORED]))
    assert answers == {f"{word}<|im_end|>" for word in ("one", "two", "three", "four")}


def test_every_answer_of_a_talk_is_trained(smollm2_folder: Path, smollm2_tokenizer: Any) -> None:
    talk: Any = [(("user", "Say one."), ("assistant", "one"), ("user", "And two?"), ("assistant", "two"))]
    (labels,) = workload.render("demo", ANY, talk, smollm2_folder).labels
    assert smollm2_tokenizer.decode([label for label in labels if label != -100]) == "one<|im_end|>two<|im_end|>"


def test_rows_of_other_lengths_are_left_out(smollm2_folder: Path) -> None:
    chats: Any = [(("user", word), ("assistant", "yes")) for word in ("short", "long " * 200)]
    narrow = workload.Kind("any", "here", lambda package, calls: [], 2, shortest=1, longest=100)
    assert len(workload.render("demo", narrow, chats, smollm2_folder).ids) == 1


def test_a_workload_is_cut_but_never_stretched(tmp_path: Path) -> None:
    whole = demo()
    assert whole.rows(0, 2).ids == ((1, 2), (1, 4))
    assert whole.rows(2, 3).labels == ((-100, 6),)
    assert whole.rows(0, 2).digest != whole.digest
    with pytest.raises(DataError, match="3 rows, not 4"):
        whole.rows(0, 4)
    whole.write(tmp_path / "demo.json")
    assert workload.Workload.read(tmp_path / "demo.json") == whole


def test_what_all_rows_begin_with_is_counted() -> None:
    assert demo().shared_prefix == 1
    assert demo(ids=((1, 2), (3, 2))).shared_prefix == 0
    assert demo(ids=((1, 2, 3), (1, 2, 4, 5))).shared_prefix == 2


def test_a_workload_is_described_by_its_lengths_and_its_work() -> None:
    item = demo(ids=(tuple(range(256)),) * 3, labels=((-100,) * 128 + tuple(range(128)),) * 3)
    facts = workload.describe(item, SMOLLM2, rank=16)
    assert facts["rows"] == 3
    assert facts["mean_length"] == 256
    assert facts["supervised_share"] == 0.5
    # By hand: frozen 4 × 106.17 M less the first layer's dX of q, k, v; adapters 6 × 4.88 M; head 4 × 28.31 M / 2;
    # attention 3.5 × 2 × 576 × 30 × 256.
    assert facts["flop_per_token"] == pytest.approx(424.67e6 - 1.11e6 + 29.31e6 + 56.62e6 + 30.97e6, rel=1e-4)
    full = workload.describe(item, SMOLLM2, rank=16, method="full")
    assert full["flop_per_token"] == pytest.approx(6 * 106.17e6 + 6 * 28.31e6 / 2 + 30.97e6, rel=1e-4)


def test_the_peers_best_order_keeps_every_row_and_puts_equal_lengths_side_by_side() -> None:
    lengths = [(37 * row) % 101 for row in range(80)]
    order = common.grouped(lengths, 8)
    steps = [[lengths[row] for row in order[start : start + 8]] for start in range(0, 80, 8)]
    assert sorted(order) == list(range(80))
    assert all(max(step) - min(step) <= 15 for step in steps)
    assert [min(step) for step in steps] != sorted(min(step) for step in steps)


def test_the_same_rows_are_measured_in_every_layout() -> None:
    plain, grouped = job(), job(layout="grouped")
    for each in (plain, grouped):
        each.ids[:] = [[0] * (1 + (37 * row) % 11) for row in range(8)]
    assert grouped.order() != plain.order()
    assert sorted(grouped.order()[4:]) == plain.order()[4:], "one step of four warms up"


def job(**options: Any) -> common.Job:
    return common.Job(
        ids=[[1, 2]] * 8, labels=[[-100, 2]] * 8, batch_size=4, model="", steps=1, warmup=1, threads=1, options=options
    )


def test_a_job_says_its_tier_its_micro_batch_and_where_exports_go() -> None:
    assert job(tier="default").is_default
    assert not job(layout="grouped").is_default
    assert job(micro_batch=8).micro_batch == 4
    assert job(micro_batch=2).micro_batch == 2
    assert job().export_folder(2) is None
    wanted = job(export="out", export_every=2)
    assert [wanted.export_folder(step) for step in (1, 2)] == [None, Path("out/step-0002")]
    assert job(export="out", export_every=5).export_folder(2) is not None, "the last step is always compared"
    assert job(method="full").learning_rate < job().learning_rate
