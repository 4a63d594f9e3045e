"""Patterns of files to leave out, as in a .gitignore: the last one that fits decides, `!` takes back in.

A pattern with a slash (but at its end) starts at the root, one without fits at any depth; a slash at its end means
folders only; `*` and `?` stop at slashes, `**` does not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from sartor.errors import RecipeError

#: What nobody means by "this folder": hidden files, and what tools keep.
USUAL = (".*", "__pycache__/", "node_modules/", "site-packages/")


def patterns_in(text: str) -> tuple[str, ...]:
    """The patterns of an ignore file, without comments."""
    lines = (line.rstrip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def ignored(path: str, patterns: Iterable[str], *, is_folder: bool = False) -> str:
    """The pattern that leaves a path out, "" where none does. The folders above it are asked first.

    Raises:
        RecipeError: a pattern is none.
    """
    parts = path.split("/")
    chosen = tuple(patterns)
    for end in range(1, len(parts) + 1):
        pattern = _last(parts[:end], chosen, is_folder or end < len(parts))
        if pattern:
            return pattern
    return ""


def _last(parts: Sequence[str], patterns: Sequence[str], is_folder: bool) -> str:
    path = "/".join(parts)
    for pattern in reversed(patterns):
        plain = pattern.removeprefix("!")
        if plain.endswith("/") and not is_folder:
            continue
        if _compiled(plain).fullmatch(path):
            return "" if pattern.startswith("!") else pattern
    return ""


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    body = pattern.rstrip("/")
    anchored = "/" in body
    body = body.removeprefix("/")
    try:
        return re.compile(("" if anchored else "(?:.*/)?") + translated(body), re.DOTALL)
    except re.error as error:
        raise RecipeError(
            f"`{pattern}` is no pattern of files to leave out: {error.msg}",
            hint="in brackets a range goes from low to high, such as [a-z]; `?` fits any one character",
        ) from error


def translated(pattern: str) -> str:
    """A pattern as a regular expression."""
    made, index = [], 0
    for found in re.finditer(r"\*\*/|/\*\*$|\*\*|\*|\?|\[!?[^\]/]+\]", pattern):
        made.append(re.escape(pattern[index : found.start()]))
        made.append(_WILD.get(found[0]) or found[0].replace("[!", "[^").replace("\\", r"\\"))
        index = found.end()
    return "".join([*made, re.escape(pattern[index:])])


_WILD = {"**/": "(?:[^/]+/)*", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
