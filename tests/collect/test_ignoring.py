"""Patterns as in a .gitignore."""

from __future__ import annotations

import re

import pytest

from sartor.collect.ignoring import ignored, patterns_in
from sartor.errors import RecipeError


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*.log", ("a.log", "x/y/a.log"), ("a.logs", "log")),
        ("build/", ("build/a", "x/build/a"), ("build", "builder/a")),
        ("/top", ("top", "top/a"), ("x/top",)),
        ("docs/*.txt", ("docs/a.txt",), ("docs/x/a.txt", "x/docs/a.txt")),
        ("docs/**/a.txt", ("docs/a.txt", "docs/x/y/a.txt"), ("a.txt",)),
        ("**/tmp", ("tmp", "a/b/tmp"), ("tmpx",)),
        ("a/**", ("a/b", "a/b/c"), ("a",)),
        ("?.[ab]", ("x.a", "y/z.b"), ("x.c", "xx.a")),
        ("[!a].md", ("b.md",), ("a.md",)),
        ("we+ird(1).txt", ("we+ird(1).txt",), ("weird1.txt",)),
    ],
)
def test_one_pattern(pattern: str, fits: tuple[str, ...], fits_not: tuple[str, ...]) -> None:
    assert [ignored(path, [pattern]) for path in fits] == [pattern] * len(fits)
    assert [ignored(path, [pattern]) for path in fits_not] == [""] * len(fits_not)


def test_the_last_pattern_decides_but_not_inside_of_what_is_left_out() -> None:
    assert ignored("keep.log", ["*.log", "!keep.log"]) == ""
    assert ignored("keep.log", ["!keep.log", "*.log"]) == "*.log"
    assert ignored("out/keep.log", ["out/", "!keep.log"]) == "out/"


def test_an_ignore_file() -> None:
    assert patterns_in("# comment\n\n*.log  \n!a.log\n") == ("*.log", "!a.log")


@pytest.mark.parametrize("pattern", ["[z-a]*", "!docs/[9-0].md", "[!]"])
def test_what_is_no_pattern_is_the_users_mistake(pattern: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"`{pattern.removeprefix('!')}` is no pattern")) as caught:
        ignored("docs/a.md", [pattern])
    assert "[a-z]" in caught.value.hint
