"""The demo's data: a small benchmark in the package's format, written by hand; the package itself is not needed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo_data.py"
_spec = importlib.util.spec_from_file_location("demo_data", SCRIPT)
assert _spec and _spec.loader
demo_data = importlib.util.module_from_spec(_spec)
sys.modules["demo_data"] = demo_data  # dataclasses look their module up by name
_spec.loader.exec_module(demo_data)

AREA = {
    "name": "shape.area",
    "description": "Area of a triangle.",
    "parameters": {
        "type": "dict",
        "properties": {
            "unit": {"type": "string", "enum": ["m", "ft"], "default": "m"},
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "round": {"type": "integer", "default": 2},
            "label": {"type": "string"},
        },
        "required": ["base", "height"],
    },
}
ONE = {
    "name": "one",
    "parameters": {"type": "dict", "properties": {"x": {"type": "any"}}, "required": ["x"]},
}
AREA_TRUTH = {"unit": ["", "m"], "base": [6], "height": [10], "round": ["", 2], "label": ["", "none"]}


def row(request: str, *functions: Any, identity: str = "row") -> dict[str, Any]:
    return {"id": identity, "question": [[{"role": "user", "content": request}]], "function": list(functions)}


def write_benchmark(folder: Path, rows: list[tuple[dict[str, Any], Any]]) -> None:
    """All rows into the first part; the other parts are there and empty."""
    (folder / "possible_answer").mkdir(parents=True)
    for part in demo_data.PARTS:
        mine = rows if part == demo_data.PARTS[0] else []
        name = f"BFCL_v4_{part}.json"
        (folder / name).write_text("".join(json.dumps(question) + "\n" for question, _ in mine))
        truths = [{"id": question["id"], "ground_truth": truth} for question, truth in mine]
        (folder / "possible_answer" / name).write_text("".join(json.dumps(truth) + "\n" for truth in truths))


def test_signature_puts_required_first_and_shows_choices_and_defaults() -> None:
    expected = 'shape.area(base: int, height: float, unit: "m"|"ft" = "m", round=2, label: str = None)'
    assert demo_data.signature(AREA) == expected


def test_signature_shows_the_items_of_a_list_and_no_type_for_any() -> None:
    properties = {"x": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, "y": {"type": "any"}}
    function = {"name": "f", "parameters": {"type": "dict", "properties": properties, "required": ["x", "y"]}}
    assert demo_data.signature(function) == 'f(x: list["a"|"b"], y)'


def test_long_enumerations_are_shown_as_their_type() -> None:
    schema = {"type": "string", "enum": [str(number) for number in range(demo_data.MAX_CHOICES + 1)]}
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"x": schema}, "required": ["x"]}}
    assert demo_data.signature(function) == "f(x: str)"


def test_call_follows_the_signature_and_leaves_out_what_the_truth_allows_to_leave_out() -> None:
    example = demo_data.make_example(row("Area with base 6 and\nheight 10?", ONE, AREA), [{"shape.area": AREA_TRUTH}])
    assert example.function == "shape.area"
    assert example.user == f"{demo_data.signature(AREA)}\n\nArea with base 6 and height 10?"
    assert example.call == "shape.area(base=6, height=10)"


def test_demanded_optional_arguments_are_written() -> None:
    truth = [{"shape.area": AREA_TRUTH | {"unit": ["ft"]}}]
    example = demo_data.make_example(row("In feet, base 6, height 10", AREA), truth)
    assert example.call == 'shape.area(base=6, height=10, unit="ft")'


@pytest.mark.parametrize(
    ("request_text", "values", "expected"),
    [
        ("In new york.", ["New York"], '"new york"'),
        ("the certificate named CERTIFICATE", ["CERTIFICATE"], '"CERTIFICATE"'),
        ("Rome or Paris", ["Berlin", "Paris", "Rome"], '"Paris"'),
        ('He said "no" to Ann', ['said "no"'], r'"said \"no\""'),
        ("five of them", [5], "5"),
        ("at 5.0 volts", [5], "5.0"),
        ("for $1,250 a month", [1250], "1250"),
        ("from -3 on", [-3], "-3"),
        ("on 2023-05-07", [7], "7"),
        ("at 5% a year", [0.05], "0.05"),
        ("please", [True], "True"),
        ("tea and milk", [["tea", "milk"]], '["tea", "milk"]'),
        ("add 3, 1 and 2", [[3, 1, 2]], "[3, 1, 2]"),
    ],
)
def test_values_take_the_spelling_of_the_request(request_text: str, values: list[Any], expected: str) -> None:
    assert demo_data.write_call(ONE, {"x": values}, request_text) == f"one(x={expected})"


@pytest.mark.parametrize(
    ("request_text", "values", "reason"),
    [
        ("In Chicago", ["Chicago, IL"], "value not in the request"),
        ("for women", ["men"], "value not in the request"),
        ("take 15", [5], "value not in the request"),
        ("tea", [["tea", "milk"]], "value not in the request"),
        ("nothing", [], "value not in the request"),
        ("nothing", [None], "value not in the request"),
        ("a 1", [{"a": [1]}], "nested value"),
        ("a 1", [[{"a": [1]}]], "nested value"),
        ("a", ["a", ""], "right with and without an argument"),
    ],
)
def test_open_or_unreadable_values_are_skipped(request_text: str, values: list[Any], reason: str) -> None:
    with pytest.raises(demo_data.Skip, match=reason):
        demo_data.write_call(ONE, {"x": values}, request_text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": ["", "big"]}, "right with and without an argument"),
        ({"unit": ["m"]}, "default must be written"),
        ({"colour": ["big"]}, "argument not in the signature"),
        ({"base": ["base"]}, "value not in the request"),
    ],
)
def test_rows_with_an_unclear_argument_are_skipped(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(demo_data.Skip, match=reason):
        demo_data.write_call(AREA, AREA_TRUTH | change, "base 6 and height 10, big, in m")


def test_python_cannot_name_an_argument_by_one_of_its_own_words() -> None:
    function = {"name": "f", "parameters": {"type": "dict", "properties": {"from": {"type": "integer"}}}}
    with pytest.raises(demo_data.Skip, match="a word of Python"):
        demo_data.write_call(function, {"from": [1]}, "from 1")


def test_foreign_letters_in_a_signature_are_seen() -> None:
    properties = {"x": {"type": "string", "enum": ["통돌이"]}}
    function = {"name": "f", "parameters": {"type": "dict", "properties": properties, "required": ["x"]}}
    with pytest.raises(demo_data.Skip, match="characters beyond ASCII"):
        demo_data.make_example(row("stop it", function), [{"f": {"x": ["통돌이"]}}])


def test_rows_that_are_no_single_short_ascii_request_are_skipped() -> None:
    truth = [{"one": {"x": [1]}}]
    chat = row("1", ONE)
    chat["question"] = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1"}]]
    cases = [
        (chat, truth, "more than one message"),
        (row("1", ONE), truth * 2, "more than one call"),
        (row("1 café", ONE), truth, "characters beyond ASCII"),
        (row("1 " * demo_data.MAX_CHARACTERS, ONE), truth, "too long"),
    ]
    for question, answers, reason in cases:
        with pytest.raises(demo_data.Skip, match=reason):
            demo_data.make_example(question, answers)


def test_repeated_prompts_answers_and_functions_are_dropped() -> None:
    def pair(request: str, value: int) -> tuple[Any, Any]:
        return row(request, ONE), [{"one": {"x": [value]}}]

    rows = [pair("take 1", 1), pair("take  1", 1), pair("use 1", 1)]
    rows += [pair(f"take {number}", number) for number in range(2, demo_data.MAX_PER_FUNCTION + 3)]
    examples, skipped = demo_data.select(rows)
    assert [example.call for example in examples] == [f"one(x={n})" for n in range(1, demo_data.MAX_PER_FUNCTION + 1)]
    assert skipped == {
        "same prompt as an earlier row": 1,
        "same answer as an earlier row": 1,
        f"function has {demo_data.MAX_PER_FUNCTION} rows already": 2,
    }


def test_main_writes_chats_and_counts_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        (row("Area with base 6 and height 10?", AREA, identity="a"), [{"shape.area": AREA_TRUTH}]),
        (row("Take Chicago", ONE, identity="b"), [{"one": {"x": ["Chicago, IL"]}}]),
    ]
    write_benchmark(tmp_path / "data", rows)
    target = tmp_path / "new" / "calls.jsonl"
    assert demo_data.main([str(target), "--source", str(tmp_path / "data")]) == 0
    first = target.read_bytes()
    (chat,) = map(json.loads, first.decode().splitlines())
    assert [turn["role"] for turn in chat["messages"]] == ["system", "user", "assistant"]
    assert chat["messages"][0]["content"] == demo_data.INSTRUCTION
    assert chat["messages"][2]["content"] == "shape.area(base=6, height=10)"
    told = capsys.readouterr().err
    assert "1 rows" in told and "1 left out" in told and "value not in the request" in told
    assert demo_data.main([str(target), "--source", str(tmp_path / "data")]) == 0
    assert target.read_bytes() == first


def test_a_missing_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    target = tmp_path / "calls.jsonl"
    command = [sys.executable, str(SCRIPT), str(target), "--source", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "nowhere" in result.stderr and demo_data.PACKAGE in result.stderr and "Traceback" not in result.stderr
    assert not target.exists()
