"""A reviewer's desk in the terminal: one key decides, `e` opens the editor."""

from __future__ import annotations

from collections.abc import Mapping

import click

from sartor.cli.common import talk


class Terminal:
    """Where a reviewer sits: shown on stderr, asked by single keys."""

    def show(self, text: str) -> None:
        talk.rule()
        talk.print(text, markup=False, highlight=False, soft_wrap=True)

    def key(self, keys: Mapping[str, str]) -> str:
        """One of the keys, when it is pressed."""
        talk.print("  ".join(f"[{key}] {word}" for key, word in keys.items()), markup=False, highlight=False)
        while True:
            pressed = click.getchar().lower()
            if pressed in keys:
                return pressed

    def line(self, question: str) -> str:
        return str(click.prompt(question, default="", show_default=False, err=True))

    def edit(self, text: str) -> str:
        """The text as the reviewer left it."""
        from sartor.augment.review import in_editor

        return in_editor(text)
