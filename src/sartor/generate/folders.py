"""Adapter folders as PEFT writes them: whose they are, what they make of a base, and who can serve them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sartor.adapters import family_of_type, methods, preset_of
from sartor.adapters.changes import Changes
from sartor.adapters.low_rank import beyond_plain
from sartor.adapters.saving import read_config
from sartor.errors import ModelError
from sartor.names import known, resolve, suggest
from sartor.store import LINEAGE, read_json


def family_in(folder: Path) -> Any:
    """The module of the family that an adapter folder belongs to.

    Raises:
        ModelError: the folder holds no adapter, or one of a kind that no family reads.
    """
    written = str(read_config(folder).get("peft_type"))
    family = family_of_type(written)
    if family is None:
        types = tuple(sorted(name for each in known("adapters") for name in resolve("adapters", each).PEFT_TYPES))
        raise ModelError(
            f"the adapter in {folder} has peft_type = {written!r}, which no method of Sartor reads",
            hint=f"merge it into its base with PEFT; {suggest(written, types)}",
        )
    return family


def require_files(base: Path, adapters: Mapping[str, Path]) -> None:
    """Refuse adapters of no kind that is known.

    Raises:
        ModelError: naming the folder.
    """
    for folder in adapters.values():
        family_in(folder)


def read_changes(base: Any, folder: Path) -> Changes:
    """What the adapter in a folder makes of a loaded base.

    Raises:
        ModelError: it cannot be read, or belongs to another base.
    """
    changes: Changes = family_in(folder).changes(base, folder)
    return changes


def require_lora(server: str, adapters: Mapping[str, Path], *, unread: Sequence[str] = ()) -> None:
    """Refuse adapters that are more than LoRA, for a server that adds nothing else to a base.

    `unread` are settings of LoRA that it does not look at.

    Raises:
        ModelError: naming the adapter, its method, and what to do.
    """
    for name, folder in adapters.items():
        config = read_config(folder)
        more = beyond_plain(config) if config.get("peft_type") == "LORA" else config.get("peft_type")
        more = more or next((setting for setting in unread if config.get(setting)), "")
        if not more:
            continue
        preset = preset_of(method_in(folder))
        to = "lora" if "vLLM after conversion" in preset.served_by else "model"
        convert = f"`sartor convert --to {to}` makes something that it serves; or " if preset.mergeable else ""
        raise ModelError(
            f"{name} is an adapter of the method {method_in(folder)} ({more}), and {server} serves LoRA alone",
            hint=f"{convert}leave `--engine` out: the engine `sartor` serves every method",
        )


def method_in(folder: Path) -> str:
    """The method that made an adapter: by its lineage, or else the one that gives its family the name."""
    written = read_json(folder / LINEAGE).get("method") if (folder / LINEAGE).is_file() else None
    if isinstance(written, str) and written in methods():
        return written
    name: str = family_in(folder).__name__.rpartition(".")[2]
    return name
