"""A user's shell: the command line in this process, in a folder of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sartor import cli


class Shell:
    """Runs `sartor` in this process, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._monkeypatch.setattr(sys, "argv", ["sartor", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = self._capsys.readouterr()
        return int(caught.value.code or 0), out, err

    def json(self, *arguments: str, code: int = 0) -> Any:
        found, out, err = self(*arguments, "--json")
        assert found == code, err
        return json.loads(out)
