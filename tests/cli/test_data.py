"""`sartor data` as its user meets it: from documents to reviewed examples, a folder each, and each mistake in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..ask.fake_endpoint import Act, serving  # noqa: TID252 - the tests are no package that could be imported by name
from ..shell import Shell  # noqa: TID252

ROWS = [{"prompt": f"What is in drawer {n}?", "completion": f"A ball of wool, number {n}."} for n in range(30)]
HANDBOOK = "# Opening hours\n\nThe shop opens at nine and closes at six. On Sundays it stays closed all day long.\n"
PAIR = {"question": "When does the shop open?", "answer": "The shop opens at nine.", "quote": "The shop opens at nine"}


def wrote(folder: Path, name: str, rows: list[Any]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def ask(url: str) -> str:
    return f"{{url: {url}, model: fake}}"


def test_rows_are_cleaned_compared_and_put_back(shell: Shell) -> None:
    wrote(shell.folder, "rows.jsonl", [*ROWS, ROWS[3], {"prompt": "Who?", "completion": "ada@lovelace.net"}])
    found = shell.json(
        "data", "clean", "rows.jsonl", "--to", "clean", "--with", "[exact_duplicates, {name: pii, action: mask}]"
    )
    assert found == {
        "folder": "clean",
        "kept": 31,
        "ledger": {"dropped: exact_duplicate": 1, "changed: e_mail": 1},
    }
    differs = shell.json("data", "diff", "rows.jsonl", "clean")
    assert [(item["what"], item["row"]) for item in differs["differences"]] == [
        ("removed", "rows.jsonl:31"),
        ("changed", "rows.jsonl:32"),
    ]
    _, out, _ = shell("data", "diff", "rows.jsonl", "clean")
    assert "[E_MAIL]" in out
    back = shell.json("data", "restore", "rows.jsonl", "clean", "rows.jsonl:31", "--to", "mended")
    assert back["kept"] == 32
    assert shell.json("data", "diff", "rows.jsonl", "mended")["counts"] == {"changed: e_mail": 1}


def test_documents_become_examples_by_a_model_behind_an_endpoint(shell: Shell) -> None:
    (shell.folder / "docs").mkdir()
    (shell.folder / "docs" / "hours.md").write_text(HANDBOOK, encoding="utf-8")
    assert shell.json("data", "collect", "docs", "--to", "manual")["kept"] == 1
    answer = json.dumps({"pairs": [PAIR]})
    with serving(lambda body, before: Act(answer)) as server:
        made = shell.json("data", "build", "manual", "--to", "pairs", "--ask", ask(server.url))
        assert made["kept"] == 1, made
        assert len(server.asked) == 1
        again = shell.json("data", "build", "manual", "--to", "pairs", "--ask", ask(server.url), "--force")
        assert (again["kept"], len(server.asked)) == (1, 1), "what was answered is not asked again"
    assert shell.json("data", "build", "manual", "--to", "text", "--with", "text")["kept"] == 1


@pytest.mark.parametrize("named", ["exact_duplicates", "{name: exact_duplicates}", "[exact_duplicates]"])
def test_one_cleaner_needs_no_list(shell: Shell, named: str) -> None:
    wrote(shell.folder, "rows.jsonl", [*ROWS, ROWS[3]])
    assert shell.json("data", "clean", "rows.jsonl", "--to", "clean", "--with", named)["kept"] == 30


def test_a_place_that_cannot_be_written_is_the_users_mistake(shell: Shell) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    wrote(shell.folder, "note.txt", ["mine"])
    for place in ("/proc/zz", "/proc/zz/yy", "note.txt/zz"):
        for verb in (
            ("clean", "rows.jsonl", "--with", "[pii]"),
            ("convert", "rows.jsonl", "--format", "openai"),
            ("collect", "note.txt"),
            ("augment", "rows.jsonl"),
        ):
            code, _, talk = shell("data", *verb, "--to", place)
            words = " ".join(talk.split())
            assert (code, f"{Path(place).absolute()} cannot be written" in words, "--to" in words) == (2, True, True), (
                talk
            )
    code, _, talk = shell("data", "inspect", "rows.jsonl", "--html", "/proc/zz.html")
    assert (code, "/proc/zz.html cannot be written" in " ".join(talk.split())) == (2, True), talk


def test_nothing_made_is_no_success_and_says_where_the_reasons_are(shell: Shell) -> None:
    wrote(
        shell.folder,
        "rows.jsonl",
        [{"prompt": f"question {n}", "completion": "As an AI, I am not able to say."} for n in range(3)],
    )
    code, out, talk = shell("data", "clean", "rows.jsonl", "--to", "clean", "--with", "[refusals]")
    assert (code, "dropped: refusal: 3" in out) == (1, True), out
    assert "nothing is left in clean" in talk
    assert "sartor data inspect clean" in talk
    assert shell("data", "inspect", "clean")[0] == 0


@pytest.mark.parametrize("to", ["mine", "note.txt", "."])
def test_force_never_replaces_what_is_no_data_folder(shell: Shell, to: str) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    wrote(shell.folder, "note.txt", ["mine"])
    (shell.folder / "mine").mkdir()
    wrote(shell.folder / "mine", "note.txt", ["mine"])
    before = sorted(path.relative_to(shell.folder) for path in shell.folder.rglob("*"))
    for verb in (("clean", "rows.jsonl", "--with", "[pii]"), ("convert", "rows.jsonl", "--format", "openai")):
        code, _, talk = shell("data", *verb, "--to", to, "--force")
        assert (code, "is no data folder" in talk) == (2, True), talk
    assert sorted(path.relative_to(shell.folder) for path in shell.folder.rglob("*")) == before


def test_a_folder_of_the_wrong_kind_is_named(shell: Shell) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    (shell.folder / "docs").mkdir()
    (shell.folder / "docs" / "hours.md").write_text(HANDBOOK, encoding="utf-8")
    shell.json("data", "collect", "docs", "--to", "manual")
    shell.json("data", "clean", "rows.jsonl", "--to", "clean", "--with", "[pii]")
    _, _, talk = shell("data", "build", "clean", "--to", "x", "--with", "text")
    assert "build needs documents, and clean holds examples" in talk
    _, _, talk = shell("data", "clean", "manual", "--to", "x", "--with", "[pii]")
    assert "clean needs examples, and manual holds documents" in talk
    for verb in (("diff", "rows.jsonl", "manual"), ("restore", "rows.jsonl", "manual", "rows.jsonl:1", "--to", "x")):
        code, _, talk = shell("data", *verb)
        assert (code, "holds documents, not examples" in talk) == (2, True), talk


def test_a_table_becomes_labels(shell: Shell) -> None:
    (shell.folder / "tickets.csv").write_text("body,queue\nIt is broken,repairs\nWhere is it?,lost\n", encoding="utf-8")
    builder = "{name: classify, input: body, label: queue}"
    assert shell.json("data", "build", "tickets.csv", "--to", "labels", "--with", builder)["kept"] == 2


def test_what_is_grown_waits_for_a_reviewer(shell: Shell) -> None:
    wrote(shell.folder, "seeds.jsonl", ROWS[:5])

    new = iter(
        [
            ("Which tin holds the brass buttons of the green coat?", "The round tin under the bench."),
            ("Who sewed the hem of the long curtain last week?", "The younger apprentice, by hand."),
            ("Where does the old iron stand when it cools down?", "On the stone beside the stove."),
        ]
    )

    def answer(body: dict[str, Any], before: int) -> Act:
        question, said = next(new)
        return Act(json.dumps({"question": question, "answer": said}))

    grow = ("data", "augment", "seeds.jsonl", "--to", "more", "--wanted", "3", "--set", "size=3", "--set", "rounds=1")
    with serving(answer) as server:
        code, _, err = shell(*grow, "--ask", ask(server.url))
        assert code == 1, err
        assert "wait for a decision" in err
        checked = [json.loads(line) for line in (shell.folder / "more.rounds/round-001/checked.jsonl").open()]
        waiting = [line["key"] for line in checked if not line["problems"]]
        wrote(shell.folder, "decisions.jsonl", [{"key": key, "decision": "accept"} for key in waiting])
        told = shell.json("data", "review", "more.rounds", "--decisions", "decisions.jsonl")
        assert told == {"decided": len(waiting), "accepted": len(waiting), "waiting": 0}
        asked = len(server.asked)
        made = shell.json(*grow, "--ask", ask(server.url))
        assert len(server.asked) == asked, "what was answered is not asked again"
    assert made["kept"] == 5 + len(waiting)


def test_failures_of_the_base_become_seeds(shell: Shell, tiny_folder: Path) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    assert shell("new", "rows.jsonl", "--model", str(tiny_folder))[0] == 0
    checked = shell.json("check")
    with serving(lambda body, before: Act("No idea.")) as server:
        made = shell.json("data", "failures", "--to", "seeds", "--ask", ask(server.url))
    counts = checked["counts"]
    assert made["kept"] == counts["train"] + counts["dev"]
    for wrong in ("{url: http://localhost:9/v1, modle: x}", "5"):
        code, _, talk = shell("data", "failures", "--to", "x", "--ask", wrong)
        assert (code, "ask" in talk, "Traceback" in talk) == (2, True, False), talk


def test_rows_are_written_in_another_format(shell: Shell) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    found = shell.json("data", "convert", "rows.jsonl", "--format", "openai", "--to", "talks")
    assert (found["rows_in"], found["rows_out"]) == (30, 30)
    assert "messages" in json.loads((shell.folder / found["file"]).open().readline())


def test_columns_of_other_names_are_read_everywhere(shell: Shell) -> None:
    wrote(shell.folder, "rows.jsonl", [{"ask": row["prompt"], "reply": row["completion"]} for row in (*ROWS, ROWS[0])])
    named = "{prompt: ask, completion: reply}"
    for asked in (("--set", f"fields={named}"), ("--fields", named)):
        made = shell.json("data", "clean", "rows.jsonl", "--to", "clean", "--with", "[pii]", "--force", *asked)
        assert made["kept"] == 31
    asked = ("--with", "[exact_duplicates]", "--fields", named, "--force")
    assert shell.json("data", "clean", "rows.jsonl", "--to", "clean", *asked)["kept"] == 30
    assert shell.json("data", "inspect", "rows.jsonl", "--fields", named)["rows"] == 31
    assert len(shell.json("data", "diff", "rows.jsonl", "clean", "--fields", named)["differences"]) == 1
    back = shell.json("data", "restore", "rows.jsonl", "clean", "rows.jsonl:31", "--to", "whole", "--fields", named)
    assert back["kept"] == 31
    assert (
        shell.json("data", "convert", "rows.jsonl", "--format", "openai", "--to", "x", "--fields", named)["rows_out"]
        == 31
    )
    code, _, talk = shell("data", "inspect", "rows.jsonl", "--fields", "5")
    assert (code, "write --fields" in talk) == (2, True)
    code, _, talk = shell("data", "inspect", "rows.jsonl", "--fields", "{prompt: question}")
    assert (code, "such a row has the keys ask, reply" in " ".join(talk.split())) == (2, True), talk


def test_a_data_set_is_looked_at(shell: Shell) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    facts = shell.json("data", "inspect", "rows.jsonl", "--search", "drawer 7", "--html", "page.html")
    assert (facts["rows"], facts["matches"]) == (30, 3)
    assert (shell.folder / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    shell.json("data", "clean", "rows.jsonl", "--to", "clean", "--with", "[exact_duplicates]")
    assert shell.json("data", "inspect", "clean")["rows"] == 30


def test_a_recipe_makes_its_data_and_is_checked(shell: Shell, tiny_folder: Path) -> None:
    wrote(shell.folder, "rows.jsonl", [*ROWS, *ROWS[:4]])
    (shell.folder / "sartor.yaml").write_text(
        f"model: {tiny_folder}\ntask: exact\ndata:\n  train: rows.jsonl\n  clean: [contamination]\n"
        "  make: [{name: clean, cleaners: [exact_duplicates]}]\n",
        encoding="utf-8",
    )
    counts = shell.json("check")["counts"]
    assert counts["rows"] == counts["train"] + counts["dev"] + counts["test"] == 30
    (made,) = (shell.folder / "runs" / "data").iterdir()
    assert shell.json("data", "inspect", str(made), "--reason", "exact_duplicate")["matches"] == 4
    code, _, err = shell("check")
    assert (code, "unchanged, skipped" in err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("clean", "none.jsonl", "--to", "x", "--with", "[pii]"), 2, "there is no file none.jsonl"),
        (("clean", "rows.jsonl", "--to", "x", "--with", "[pie]"), 2, "unknown cleaner 'pie'"),
        (("clean", "rows.jsonl", "--to", "x", "--with", "[outliers]"), 2, "only_train"),
        (("clean", "rows.jsonl", "--to", "docs", "--with", "[pii]"), 2, "docs is there already"),
        (("collect", "nowhere", "--to", "x"), 2, "there is nothing at nowhere"),
        (("build", "rows.jsonl", "--to", "x"), 2, "no data folder"),
        (("build", "rows.jsonl", "--to", "x", "--with", "qu"), 2, "unknown builder 'qu'"),
        (("augment", "rows.jsonl", "--to", "x", "--with", "improv"), 2, "unknown way to augment 'improv'"),
        (("review", "docs"), 2, "holds no augmentation"),
        (("diff", "rows.jsonl", "docs"), 2, "docs is no data folder"),
        (("restore", "rows.jsonl", "docs", "rows.jsonl:1", "--to", "x"), 2, "docs is no data folder"),
        (("convert", "rows.jsonl", "--to", "x", "--format", "opanai"), 2, "did you mean 'openai'"),
        (("inspect", "none.jsonl"), 2, "there is no file none.jsonl"),
        (("inspect", "rows.jsonl", "--model", "smolm2-135m-instruct"), 2, "smollm2-135m-instruct"),
        (("failures", "--to", "x"), 2, "no runs here yet"),
    ],
)
def test_a_users_mistake_is_answered_in_words(shell: Shell, arguments: tuple[str, ...], code: int, words: str) -> None:
    wrote(shell.folder, "rows.jsonl", ROWS)
    (shell.folder / "docs").mkdir()
    found, _, err = shell("data", *arguments)
    assert found == code, err
    assert words in err
    assert "Traceback" not in err
    assert not (shell.folder / "x").exists()
