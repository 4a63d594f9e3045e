"""Whose tokens a forward has: stretches of neighbours, and those whose logits are wanted."""

from __future__ import annotations

from sartor.generate.batch.runs import BASE, Choice, Run, Runs


def test_neighbours_of_one_adapter_are_a_run_and_the_base_is_in_none() -> None:
    runs = Runs()
    runs.set([BASE, 2, 2, 0, BASE, BASE, 2])
    assert runs.num_tokens == 7
    assert runs.of({0: "", 2: ""}) == [Run(2, slice(1, 3)), Run(0, slice(3, 4)), Run(2, slice(6, 7))]
    assert runs.of({0: ""}) == [Run(0, slice(3, 4))]
    assert runs.of({}) == []


def test_the_wanted_tokens_have_runs_of_their_own() -> None:
    choice = Choice()
    choice.set([0, 0, BASE, 1], [1, 3])
    assert choice.wanted.num_tokens == 2
    assert choice.wanted.of({0: "", 1: ""}) == [Run(0, slice(0, 1)), Run(1, slice(1, 2))]
