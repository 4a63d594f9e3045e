"""The proof as a document: what it says of itself, and that it comes back from disk unchanged."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from sartor.proof import Item, Proof, Verdict

from .proofs import arm, item, proof


def test_arms_are_found_by_name() -> None:
    found = proof()
    assert found.arm("tuned").score == 0.7
    with pytest.raises(StopIteration):
        found.arm("retrieval")


def test_the_best_untuned_arm_is_never_a_tuned_one() -> None:
    assert proof().best_untuned.name == "few_shot"
    found = proof(arms=(arm("tuned", 0.9), arm("tuned_retrieval", 0.95), arm("zero_shot", 0.2), arm("few_shot", 0.1)))
    assert found.best_untuned.name == "zero_shot"


def test_it_comes_back_from_disk() -> None:
    found = proof()
    text = json.dumps(found.model_dump(mode="json", by_alias=True))
    assert json.loads(text)["schema"] == 1
    assert Proof.model_validate_json(text) == found
    answered = item("a", "zero_shot", 0.5)
    assert Item.model_validate_json(answered.model_dump_json()) == answered


@pytest.mark.parametrize("change", [{"verdict": "maybe"}, {"schema": 2}, {"surprise": 1}, {"arms": None}])
def test_another_shape_is_refused(change: dict[str, Any]) -> None:
    document = {**proof().model_dump(mode="json", by_alias=True), **change}
    with pytest.raises(ValidationError):
        Proof.model_validate(document)


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError):
        proof().verdict = "ship"  # type: ignore[misc]


def test_the_verdicts() -> None:
    assert set(get_args(Verdict)) == {"ship", "keep_prompting", "more_data", "regression", "untuned"}
