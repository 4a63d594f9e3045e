"""Writing and reading PEFT folders: what all families of adapters share."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def export(model: Any, folder: Path) -> None:
    """Write the PEFT files `adapter_config.json` and `adapter_model.safetensors`."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
