"""Prepare the data of `make demo`: turn a request and a function signature into the call.

    python scripts/demo_data.py demo/calls.jsonl

The source is the Berkeley Function Calling Leaderboard as the package `bfcl-eval` carries it (Apache-2.0). The package
is found but never imported: only its data folder is read. One row out is one OpenAI chat: a short instruction; the
signature and the request; the call. We keep rows with one right answer, so that exact match is fair: one call, flat
values, each to be read in the request or in the signature. Of several functions on offer only the right one is shown:
choosing is another task. Rows left out are counted by reason on stderr. The same package gives the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import keyword
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor import durable
from sartor.errors import DataError, SartorError

PACKAGE = "bfcl-eval==2026.3.23"  # the release whose files this script knows
#: The parts of the benchmark whose answer is one call.
PARTS = ("simple_python", "live_simple", "simple_java", "simple_javascript", "multiple", "live_multiple")
INSTRUCTION = 'Write only the call, like f(a=1, b="x"). Leave out defaults.'  # fair to untuned models: the form is told
MAX_CHARACTERS = 400  # of the user's turn: a token is three to four characters, and the demo has minutes
MAX_PER_FUNCTION = 12  # a few functions of the live parts have up to 80 rows
MAX_CHOICES = 5  # a longer enumeration is shown as its type

_TYPES = {"integer": "int", "long": "int", "float": "float", "double": "float", "string": "str", "boolean": "bool"}
_TYPES |= {"array": "list", "arraylist": "list", "tuple": "list", "dict": "dict", "hashmap": "dict"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d)")  # also 1,250.50

Json = Any  # a value of the package's files, as the `json` module gives it


class Skip(Exception):
    """A row that we leave out; the message is the reason under which it is counted."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row: the function that is called, the user's turn, and the call."""

    function: str
    user: str
    call: str

    def line(self) -> str:
        """The row as one line of JSON in OpenAI's chat format."""
        turns = {"system": INSTRUCTION, "user": self.user, "assistant": self.call}
        return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns.items()]}) + "\n"


def data_folder() -> Path:
    """The data folder of the installed package, found without importing it (that would need many clients)."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the package bfcl-eval is not installed", hint=f"pip install --no-deps {PACKAGE}")
    return Path(spec.submodule_search_locations[0]) / "data"


def read_part(folder: Path, part: str) -> Iterator[tuple[Json, Json]]:
    """The rows of one part, each with its truth: a list of calls, each argument with the list of its right values."""
    name = f"BFCL_v4_{part}.json"
    truths = {row["id"]: row["ground_truth"] for row in _json_lines(folder / "possible_answer" / name)}
    yield from ((row, truths[row["id"]]) for row in _json_lines(folder / name))


def _json_lines(path: Path) -> list[Json]:
    if not path.is_file():
        raise DataError(f"{path} is missing", hint=f"this script knows the files of {PACKAGE}: install that one")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def make_example(row: Json, truth: Json) -> Example:
    """One row of the package as an example; raises `Skip` where it has no short and single right answer."""
    if [len(turn) for turn in row["question"]] != [1]:
        raise Skip("more than one message")
    if len(truth) != 1:
        raise Skip("more than one call")
    ((name, right_values),) = truth[0].items()
    right = {function["name"]: function for function in row["function"]}[name]
    request = " ".join(row["question"][0][0]["content"].split())
    user = f"{signature(right)}\n\n{request}"
    if not user.isascii():
        raise Skip("characters beyond ASCII")
    if len(user) > MAX_CHARACTERS:
        raise Skip("too long")
    return Example(name, user, write_call(right, right_values, request))


def signature(function: Json) -> str:
    """A function on one line, required parameters first: `area(base: int, unit: "m"|"ft" = "m")`."""
    return f"{function['name']}({', '.join(_parameter(*each) for each in _parameters(function))})"


def _parameters(function: Json) -> list[tuple[str, Json, bool]]:
    """(name, schema, required) in the order of the signature, which is the order of the call."""
    schema = function["parameters"]
    each = [(name, value, name in schema.get("required", [])) for name, value in schema["properties"].items()]
    return sorted(each, key=lambda parameter: not parameter[2])


def _parameter(name: str, schema: Json, required: bool) -> str:
    default, kind = schema.get("default"), _kind(schema)
    if not required and default is not None and not _choices(schema):
        return f"{name}={literal(default)}"  # the default shows the type
    return name + (f": {kind}" if kind else "") + ("" if required else f" = {literal(default)}")


def _kind(schema: Json) -> str:
    if choices := _choices(schema):
        return "|".join(map(literal, choices))
    kind = _TYPES.get(schema.get("type", "any").lower(), "")
    items = _kind(schema["items"]) if kind == "list" and "items" in schema else ""
    return f"list[{items}]" if items else kind


def _choices(schema: Json) -> list[str]:
    choices = schema.get("enum", [])
    return choices if len(choices) <= MAX_CHOICES and all(isinstance(choice, str) for choice in choices) else []


def literal(value: Json) -> str:
    """A value as Python writes it, but strings in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def write_call(function: Json, right_values: Json, request: str) -> str:
    """The call with the arguments that the truth demands, by keyword, in the order of the signature; or `Skip`."""
    if not set(right_values) <= set(function["parameters"]["properties"]) or any(map(keyword.iskeyword, right_values)):
        raise Skip("argument not in the signature, or a word of Python")
    arguments = []
    for name, schema, required in _parameters(function):
        values = right_values.get(name, [""])
        if "" not in values:  # the benchmark's sign for "may be left out"
            value = _first_readable(values, schema, request)
            if not required and value == literal(schema.get("default")):
                raise Skip("default must be written")
            arguments.append(f"{name}={value}")
        elif required or any(_is_stated(value, schema, request) for value in values):
            raise Skip("right with and without an argument")
    return f"{function['name']}({', '.join(arguments)})"


def _is_stated(value: Json, schema: Json, request: str) -> bool:
    """Whether a reader would write this argument although the truth does not demand it."""
    silent = isinstance(value, bool) or value in ("", None, schema.get("default"))
    return not silent and _read(value, schema, request) is not None


def _first_readable(values: list[Json], schema: Json, request: str) -> str:
    for text in (_read(value, schema, request) for value in values):
        if text is not None:
            return text
    raise Skip("value not in the request")


def _read(value: Json, schema: Json, request: str) -> str | None:
    """The literal of a value in the spelling of the request or of the signature; None when it stands in neither."""
    if isinstance(value, bool):
        return literal(value)
    if isinstance(value, str):
        # The benchmark compares strings without regard to case, so the user's own spelling is right, and copied.
        word = rf"(?<!\w){re.escape(value)}(?!\w)"
        found = re.search(word, request) or re.search(word, request, re.IGNORECASE)
        fits = _kind(schema) in ("str", "")  # Java's rows also name variables: "myList" for a list
        return literal(value) if value in _choices(schema) else literal(found.group()) if found and fits else None
    if isinstance(value, int | float):
        return _read_number(value, request)
    if isinstance(value, list) and value:
        items = [_read(item, schema.get("items", {}), request) for item in value]
        return None if None in items else f"[{', '.join(filter(None, items))}]"
    if isinstance(value, dict):
        raise Skip("nested value")
    return None


def _read_number(value: float, request: str) -> str | None:
    """5 stays 5, 5.0 stays 5.0, 1,250 becomes 1250, five 5, and 5% becomes 0.05 where the truth says so."""
    for match in _NUMBER.finditer(request):
        text = match.group().replace(",", "")
        if float(text) == value:
            return text if "." in text else str(int(text))
        if request[match.end() :].lstrip().startswith("%") and round(float(text) / 100, 6) == value:
            return literal(value)
    small = value in range(len(_WORDS)) and re.search(rf"\b{_WORDS[int(value)]}\b", request, re.IGNORECASE)
    return str(int(value)) if small else None


def select(rows: Iterable[tuple[Json, Json]]) -> tuple[list[Example], Counter[str]]:
    """The examples in the order of the rows, and the number of rows left out for each reason."""
    examples: list[Example] = []
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    uses: Counter[str] = Counter()
    for row, truth in rows:
        try:
            example = make_example(row, truth)
            if example.user in seen:
                raise Skip("same prompt as an earlier row")
            if example.call in seen:  # else the answer to a held-out item could be one learnt by heart
                raise Skip("same answer as an earlier row")
            if uses[example.function] == MAX_PER_FUNCTION:
                raise Skip(f"function has {MAX_PER_FUNCTION} rows already")
        except Skip as reason:
            skipped[str(reason)] += 1
            continue
        examples.append(example)
        seen |= {example.user, example.call}
        uses[example.function] += 1
    return examples, skipped


def main(arguments: list[str] | None = None) -> int:
    """Write the file; the exit code is 0, or that of the error."""
    parser = argparse.ArgumentParser(description="Prepare the data of `make demo`.")
    parser.add_argument("target", type=Path, help="the JSONL file to write")
    parser.add_argument("--source", type=Path, help="the benchmark's data folder (default: of the installed package)")
    options = parser.parse_args(arguments)
    try:
        folder = options.source or data_folder()
        examples, skipped = select(pair for part in PARTS for pair in read_part(folder, part))
        options.target.parent.mkdir(parents=True, exist_ok=True)
        durable.atomic_write(options.target, "".join(example.line() for example in examples))
    except SartorError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{len(examples)} rows in {options.target}, {skipped.total()} left out:", file=sys.stderr)
    for reason, count in skipped.most_common():
        print(f"  {count:5}  {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
