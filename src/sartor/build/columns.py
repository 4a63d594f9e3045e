"""Columns of a row as texts, and templates that name them: `Subject: {subject}`."""

from __future__ import annotations

import json
import re
from typing import Any

from sartor.errors import FieldError
from sartor.formats import fields
from sartor.types import Json

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


def column(row: Json, name: str) -> Any:
    """The value of a column.

    Raises:
        FieldError: the row has no such column.
    """
    if name not in row:
        raise FieldError(name, seen=fields.seen(row), expected=f"the column `{name}`")
    return row[name]


def written(value: Any, name: str) -> str:
    """A value as it stands in a text; null is empty.

    Raises:
        FieldError: it is no clean text.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return fields.clean(value, name)
    fields.clean_tree(value, name)
    return json.dumps(value, ensure_ascii=False)


def filled(template: str, row: Json) -> str:
    """The template with the row's values. One that names no column in braces is itself the name of one.

    Raises:
        FieldError: a column is missing, or nothing is left but white space.
    """
    if not _PLACE.search(template):
        text = written(column(row, template), template)
    else:
        text = _PLACE.sub(lambda found: _put(found, row), template)
    if not text.strip():
        raise FieldError(template, seen=fields.seen(text), expected="a text with something in it")
    return text


def _put(found: re.Match[str], row: Json) -> str:
    name = found[1]
    return written(column(row, name), name) if name else found[0][0]
