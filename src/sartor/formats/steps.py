"""A question, the way to its answer, and the answer: GSM8K, or `solution` and `steps` with a final answer.

The way stays in the content, where every model can write it; `Message.reasoning` is for models whose template has a
place for thoughts, and most templates leave it out. The final answer stands in the last line behind `#### `, GSM8K's
own mark, so that one rule finds it. GSM8K's `<<48/2=24>>` are calls of a calculator that a served model does not have:
they are taken out, and that is told. A plain `question` and `answer` is a question with its answer. A `context` stands
before the question.
"""

from __future__ import annotations

import re

from sartor.errors import FieldError
from sartor.formats import Change, Parsed, fields
from sartor.formats.keys import RATING, lacks
from sartor.formats.turns import Turn, conversation, under_system
from sartor.types import Json, Message, Source

WRITES = False
SUMMARY = "question and answer, perhaps worked out in steps, with the final answer behind ####"
FIELDS: tuple[str, ...] = ("question", "problem", "context", "system", "answer", "final_answer", "solution", "steps")
SAMPLE: Json = {
    "question": "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts?",
    "answer": "It takes 2/2=1 bolt of white fiber.\nSo the total is 2+1=3 bolts.\n#### 3",
}

MARK = "#### "
#: A calculator call has no line break and no `<` inside.
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_QUESTIONS, _ANSWERS, _WAYS = ("question", "problem"), ("final_answer", "answer"), ("solution", "steps")


def matches(row: Json) -> bool:
    asks = any(key in row for key in _QUESTIONS)
    answers = any(key in row for key in (*_ANSWERS, *_WAYS))
    return asks and answers and lacks(row, "messages", "conversations", "instruction", "prompt", "completion", *RATING)


def parse(row: Json, source: Source) -> Parsed:
    """The question, and the way with the answer as what is answered.

    Raises:
        FieldError: one of them is missing, empty, there twice, or of another type.
    """
    asked = _only(row, _QUESTIONS)
    text = "\n".join(part for part in (fields.optional(row, "context"), fields.filled(row, asked)) if part)
    question = Turn(asked, Message(role="user", content=text))
    place, written = _answer(row)
    content, num_marks = _CALCULATOR.subn("", written)
    if not content.strip():
        raise FieldError(place, seen=fields.seen(written), expected="a text beside calculator marks")
    answer = Turn(place, Message(role="assistant", content=content))
    parsed = conversation(under_system(row, (question, answer)), (), source)
    if not num_marks:
        return parsed
    return Parsed(parsed.example, (Change(place, "calculator_marks", f"{num_marks} marks <<…>> taken out"),))


def _answer(row: Json) -> tuple[str, str]:
    """Where the answer stands, and the whole text of it."""
    ways = [key for key in _WAYS if row.get(key) is not None]
    if not ways:
        key = _only(row, _ANSWERS)
        return key, _final(row, key)
    way = _only(row, _WAYS)
    worked = _steps(row) if way == "steps" else fields.filled(row, way)
    if way == "solution" and all(row.get(key) is None for key in _ANSWERS):
        return way, worked
    final = _final(row, _only(row, _ANSWERS))
    last = worked.rstrip().rpartition("\n")[2]
    return way, worked if last == MARK + final else f"{worked}\n{MARK}{final}"


def _final(row: Json, key: str) -> str:
    """Final answers are often numbers in JSON, and a number has one spelling there."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return str(value)
    return fields.filled(row, key)


def _steps(row: Json) -> str:
    steps = fields.items(row, "steps", of="texts")
    if not steps:
        raise FieldError("steps", seen=fields.seen(row.get("steps")), expected="a list of texts")
    return "\n".join(fields.filled({"step": step}, "step", f"steps[{index}]") for index, step in enumerate(steps))


def _only(row: Json, keys: tuple[str, ...]) -> str:
    """The one of the keys that the row has; the first where it has none, so that an error names it."""
    given = [key for key in keys if row.get(key) is not None]
    if len(given) > 1:
        raise FieldError(given[1], seen=f"both `{given[0]}` and `{given[1]}`", expected="one of them")
    return given[0] if given else next((key for key in keys if key in row), keys[0])
