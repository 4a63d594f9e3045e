"""The report of a made-up result, its ratios, and what it warns of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import figures
import report
from harness import RESULTS
from sartor.errors import UserError


def test_the_table_gives_rates_ratios_memory_and_utilisation(make_result: Any) -> None:
    page = report.markdown(make_result())
    assert "| Sartor | 500 (500–500) | 250 | 25% | 62% | 2.00 GiB | 20 s | – | – |" in page
    assert "| TRL, tuned | 200 (200–200) | 100 | 25% | 25% | 8.00 GiB | 20 s | 2.50 × [2.50, 2.50] | 0.25 × |" in page
    assert "Against TRL, tuned: **2.50 × [2.50, 2.50]**." in page
    assert "Against TRL's defaults: **5.00 × [5.00, 5.00]**." in page
    assert "24 rows from a package; 8 a step. 220 tokens on average (from 60 to 600" in page
    assert "within 0.10% of plain transformers in bf16, 0.70% of it in fp32" in page
    assert "Abacus 9" in page
    assert "trl 1.16.0" in page
    assert "All were measured on the same rows." in page
    assert "Not asked for: transformers' Trainer + PEFT, defaults; " in page
    assert "Not to be quoted" not in page


def test_a_result_of_other_rows_is_not_to_be_quoted(make_result: Any) -> None:
    runs = make_result()["runs"]
    page = report.markdown(make_result(runs=[{**runs[0], "supervised_tokens": 498}, *runs[1:]]))
    assert "**Not to be quoted: contestants were measured on other rows.**" in page
    assert "from (1000, 498) to (1000, 500) on w1." in page


def test_the_fastest_of_several_tuned_peers_is_said(make_run: Any, make_result: Any) -> None:
    result = make_result()
    result["settings"]["contestants"].append("hf_tuned")
    result["runs"] += [make_run("hf_tuned", repeat, 4.0) for repeat in range(5)]
    words = (
        "Against the fastest of 2 tuned peers measured (transformers' Trainer + PEFT, tuned): **2.00 × [2.00, 2.00]**."
    )
    assert words in report.markdown(result)


def test_ratios_pair_repeats_and_their_interval_covers_them() -> None:
    assert figures.paired_ratio([100.0, 220.0, 330.0], [50.0, 100.0, 150.0]) == (2.2, 2.0, 2.2)
    assert figures.paired_ratio([5.0, 1.0, 2.0, 4.0, 3.0], [1.0] * 5) == (3.0, 1.0, 5.0)
    ten = figures.paired_ratio([float(number) for number in range(1, 11)], [1.0] * 10)
    assert ten == (5.5, 2.0, 9.0)  # outside where at most one of ten coins says so: 2.1 %
    slow_then_fast = figures.paired_ratio([100.0, 1000.0], [50.0, 500.0])  # a machine that changes hurts no ratio
    assert slow_then_fast == (2.0, 2.0, 2.0)
    assert figures.ratio_words([], [1.0]) == "–"
    assert figures.ratio_words([2.0] * 5, [1.0] * 6) == "2.00 × [2.00, 2.00]"


def test_a_repeat_that_one_side_lost_pairs_with_nothing(make_run: Any, make_result: Any) -> None:
    ours = [make_run("sartor", repeat, seconds) for repeat, seconds in enumerate((1.0, 2.0, 4.0))]
    theirs = [make_run("trl_tuned", repeat, seconds) for repeat, seconds in ((0, 2.0), (2, 8.0))]
    assert "2.00 × (2 repeats, no interval)" in report.markdown(make_result(runs=[*ours, *theirs]))


@pytest.mark.parametrize(
    "change", [{"plateau_after": 3e11}, {"foreign": 0.3}, {"steal": 0.05}], ids=["drift", "foreign", "steal"]
)
def test_an_unsteady_machine_is_said_at_the_top(make_result: Any, change: dict[str, float]) -> None:
    runs = make_result()["runs"]
    page = report.markdown(make_result(runs=[*runs[:-1], {**runs[-1], **change}]))
    assert "**Not to be quoted: in 1 of 15 runs" in page.split("###")[0]
    assert "At its worst: plateau drift " in page


def test_one_repeat_has_no_interval(make_result: Any) -> None:
    result = make_result(runs=make_result()["runs"][:3])
    result["settings"]["repeats"] = 1
    page = report.markdown(result)
    assert "2.50 × (1 repeat, no interval)" in page
    assert "fewer than five repeats" in page


def test_the_grid_is_shown_against_its_best(make_run: Any, make_result: Any) -> None:
    grid = [
        make_run("trl_tuned", 0, seconds, options={"layout": layout, "micro_batch": 4})
        for layout, seconds in (("grouped", 5.0), ("flat", 10.0))
    ]
    grid.append({"workload": "w1", "contestant": "hf_tuned", "options": {"micro_batch": 2}, "failed": "no memory"})
    page = report.markdown(make_result(grid=grid))
    assert "| w1 | transformers' Trainer + PEFT, tuned, micro-batch 2 | failed: no memory | – | – |" in page
    assert "| w1 | TRL, tuned, layout grouped, micro-batch 4 | 100% | 25% | 8.00 GiB |" in page
    assert "| w1 | TRL, tuned, layout flat, micro-batch 4 | 50% | 25% | 8.00 GiB |" in page
    assert "taken for granted" not in page
    alone = make_result()
    assert "taken for granted" in report.markdown(alone)
    alone["runs"] = [run for run in alone["runs"] if run["contestant"] == "sartor"]
    assert "taken for granted" not in report.markdown(alone)


def test_who_could_not_be_measured_is_said_with_the_reason(make_result: Any) -> None:
    page = report.markdown(make_result(absent={"litgpt_tuned": {"w1": "it did not start"}}))
    assert "- litgpt, tuned, w1: it did not start" in page


def test_a_long_shared_prefix_is_said(make_result: Any) -> None:
    result = make_result()
    result["workloads"]["w1"]["shared_prefix"] = 150
    assert "the first 150 of them the same in every row" in report.markdown(result)


def test_the_page_of_the_docs_takes_the_newest_of_each_kind(make_result: Any, tmp_path: Path) -> None:
    kept = ("", "w4", "full-w1", "generate")
    for day, kind in (("2030-01-02", ""), *(("2030-01-01", kind) for kind in kept)):
        path = tmp_path / f"{day}-abacus-{kind}.json"
        path.write_text(json.dumps({"kind": kind, "machine": {"processor": "Abacus 9"}}), encoding="utf-8")
        path.with_suffix(".md").write_text(f"{kind or 'training'} of {day}\n", encoding="utf-8")
    report.write_page(tmp_path, tmp_path / "bench.md")
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "training of 2030-01-02" in page
    assert "training of 2030-01-01" not in page
    order = ["## Training, LoRA", "training of 2030-01-02", "w4 of", "## Training, full", "full-w1 of", "## Generation"]
    assert sorted(order, key=page.index) == order


def test_a_command_delivers_what_was_asked_of_it(make_result: Any, tmp_path: Path) -> None:
    options = report.command("Something.", threads=3).parse_args(["--results", str(tmp_path)])
    code = report.deliver(lambda asked: make_result(settings={"threads": asked.threads}), str, options)
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"2030-01-02-abacus-9.json", "2030-01-02-abacus-9.md"}
    assert "'threads': 3" in (tmp_path / "2030-01-02-abacus-9.md").read_text(encoding="utf-8")


def test_a_command_counts_from_one_and_tries_its_folder_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        report.command("Something.").parse_args(["--threads", "0"])
    assert "invalid positive value: '0'" in capsys.readouterr().err
    (tmp_path / "file").write_text("", encoding="utf-8")
    options = report.command("Something.").parse_args(["--results", str(tmp_path / "file" / "results")])
    assert report.deliver(lambda _: pytest.fail("it measured"), str, options) == 2
    assert "name another folder with --results" in capsys.readouterr().err


def test_a_part_is_kept_off_the_page() -> None:
    options = report.command("Something.").parse_args([])
    report.require_whole(options, whole=True)
    with pytest.raises(UserError, match="would replace the whole"):
        report.require_whole(options, whole=False)


def test_every_result_that_is_kept_has_its_section() -> None:
    sections = {report.section(json.loads(path.read_text(encoding="utf-8"))["kind"]) for path in RESULTS.glob("*.json")}
    assert sections <= set(report.SECTIONS)
