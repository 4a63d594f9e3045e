"""The generation benchmark: its prompts, its table, and who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import generate
import harness
import report
import workload
from sartor.errors import DataError, MachineError


def test_prompts_end_where_the_answer_begins_and_are_the_same_each_time() -> None:
    ids = tuple((number, 7, 8, 9) for number in range(20))
    labels = tuple((-100, -100, 8, 9) for _ in range(20))
    whole = workload.Workload("w1", "here", 8, ids, labels)
    prompts = generate.prompts_of(whole, 5)
    assert prompts == generate.prompts_of(whole, 5)
    assert all(len(prompt) == 2 and prompt[1] == 7 for prompt in prompts)
    assert len({prompt[0] for prompt in prompts}) == 5


def test_more_prompts_than_rows_are_refused() -> None:
    whole = workload.Workload("w1", "here", 8, ((1, 2),), ((-100, 2),))
    with pytest.raises(DataError, match="w1 has 1 rows, not 2"):
        generate.prompts_of(whole, 2)


def test_adapters_are_compared_with_themselves() -> None:
    assert generate.takes_part("sartor", "four")
    assert not generate.takes_part("transformers", "four")
    assert generate.takes_part("vllm", "shared")


def test_a_batch_that_fails_is_left_out_and_the_fastest_of_the_others_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"new_tokens": 64, "plateau_before": 1.0, "plateau_after": 1.0}
    seconds = {8: 3.0, 16: 2.0}

    def one(machine: Any, model: Path, name: str, scene: str, options: Any) -> Any:
        if options["batch"] not in seconds:
            raise MachineError("no memory", hint="less")
        return {"scene": scene, "options": options, "seconds": seconds[options["batch"]], **state}

    monkeypatch.setattr(generate, "one", one)
    asked = generate.parse(["--batches", "8", "16", "32"])
    best = generate.best_of(list(generate.search(harness.Machine(1), Path(), asked)))
    assert best == {"mixed": {"batch": 16}, "shared": {"batch": 16}}
    assert generate.own_options("transformers", "mixed", best) == {"batch": 16}
    assert generate.own_options("sartor", "mixed", {}) == {}
    assert generate.kind(asked) == "generate"
    part = generate.kind(generate.parse(["--scenes", "four", "mixed"]))
    assert (part, report.section(part)) == ("generate-mixed-four", "generate")
    assert set(generate.SCENES) <= set(report.PARTS)
    with pytest.raises(MachineError, match="no batch size ran on mixed"):
        generate.own_options("transformers", "mixed", {})


def result(**changes: Any) -> dict[str, Any]:
    def run(scene: str, name: str, repeat: int, seconds: float, digests: list[str]) -> dict[str, Any]:
        steady = {"steal": 0.0, "foreign": 0.0, "plateau_before": 4e11, "plateau_after": 4e11}
        facts = {"new_tokens": 100, "seconds": seconds, "start_seconds": 2.0, "peak_bytes": 2**30, "digests": digests}
        return {"scene": scene, "contestant": name, "repeat": repeat, "options": {}, **facts, **steady}

    runs = [
        run(scene, name, repeat, seconds, digests)
        for repeat in range(5)
        for scene, name, seconds, digests in (
            ("mixed", "sartor", 1.0, ["a", "b"]),
            ("mixed", "transformers", 4.0, ["a", "c"]),
            ("one", "sartor", 1.0, ["d", "e"]),
            ("four", "sartor", 1.25, ["f", "g"]),
        )
    ]
    grid = [{**run("mixed", "transformers", 0, 4.0, []), "options": {"batch": batch}} for batch in (8, 32)]
    facts = {
        "grid": grid,
        "date": "2030-01-02",
        "machine": {"processor": "Abacus 9", "num_cores": 2},
        "model": {"name": "a-model"},
        "settings": {
            "dtype": "float32",
            "repeats": 5,
            "threads": 2,
            "prompts": 2,
            "new_tokens": 50,
            "contestants": ["sartor", "transformers", "vllm"],
        },
        "scenes": {
            scene: {"title": scene, "prompt_tokens": 9, "shortest": 4, "longest": 5}
            for scene in ("mixed", "one", "four")
        },
        "runs": runs,
        "absent": {"vllm": {"mixed": "not installed"}},
    }
    return {**facts, **changes}


def test_the_table_gives_rates_starts_agreement_and_ratios() -> None:
    page = generate.markdown(result())
    row = (
        "| transformers' `generate`, the best of 8, 32 | 25 (25–25) | 2.0 s | 1.00 GiB | 1 of 2 | 4.00 × [4.00, 4.00] |"
    )
    assert row in page
    assert "Four adapters mixed, times one: **0.80 × [0.80, 0.80]**." in page
    assert "Not measured: vLLM's CPU build, 64 mixed prompts: not installed" in page
