"""The changes of any adapter that PEFT can merge: whole weights, found by merging into a copy of the base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from sartor.adapters.changes import Changes, Weight


def merged_changes(base: Any, folder: Path) -> Changes:
    """Other weights for each module that a mergeable adapter moves. The base itself stays as it is.

    Args:
        base: a loaded transformers model; merging is done in its number format.
        folder: an adapter as PEFT writes it.
    """
    import torch
    from peft import PeftModel

    merged = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).merge_and_unload()
    theirs, ours = dict(merged.named_modules()), dict(base.named_modules())
    changed = {}
    for name, module in ours.items():
        before, after = (dict(part.named_parameters(recurse=False)) for part in (module, theirs[name]))
        if before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before):
            continue
        if before:
            bias = after["bias"].detach() if "bias" in after else None
            changed[name] = (Weight(after["weight"].detach(), bias),)
    return Changes(changed)
