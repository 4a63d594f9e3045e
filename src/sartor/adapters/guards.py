"""Making a PEFT model so that nothing is passed over in silence."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sartor.errors import RecipeError, Unsupported
from sartor.hardware import environment_kept

COMPILERS = ("CC", "CXX")


def peft_model(model: Any, config: Any) -> Any:
    """The model as a PEFT model with a new adapter: adapter weights in fp32, the base frozen.

    A call with `adapter_names` is refused. It asks for another adapter in each row, and most of PEFT's methods ignore
    that without a word, as our product for LoRA does: rows of the plain base would be answered by the adapter.

    Raises:
        RecipeError: a target is the name of no layer. PEFT would adapt the others alone.
    """
    from peft import get_peft_model

    _refuse_missing(model, config.target_modules)
    config.task_type, config.modules_to_save = task_of(model), heads_of(model)
    with compilers_kept():
        made: Any = get_peft_model(model, config, autocast_adapter_dtype=True)
    made.register_forward_pre_hook(_refuse_mixed_rows, with_kwargs=True)
    return made


def loaded(model: Any, folder: Path) -> Any:
    """The model as a PEFT model with the adapter in a folder."""
    from peft import PeftModel

    with compilers_kept():
        return PeftModel.from_pretrained(model, str(folder))


def compilers_kept() -> AbstractContextManager[None]:
    """Leave `CC` and `CXX` as they were: where PEFT's BOFT kernel cannot be compiled, both stay "gcc" afterwards."""
    return environment_kept(COMPILERS)


def task_of(model: Any) -> str:
    """PEFT's word for what a model does."""
    if not model.can_generate():
        return "SEQ_CLS" if type(model).__name__.endswith("ForSequenceClassification") else "FEATURE_EXTRACTION"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def heads_of(model: Any) -> list[str] | None:
    """The parts of a classifier that are new, or made for another task: they are trained whole beside any adapter.

    All outside of the encoder, and the encoder's pooler, which many checkpoints lack. None for other models.
    """
    if task_of(model) != "SEQ_CLS":
        return None
    names = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
    heads = [name for name in names if name != model.base_model_prefix]
    pooled = "pooler" in dict(model.base_model.named_children())
    return heads + ["pooler"] * pooled


def train_heads(model: Any) -> None:
    """Let the heads of a classifier be trained, whatever else is."""
    for name in heads_of(model) or ():
        parts = dict(model.base_model.named_children()) | dict(model.named_children())
        parts[name].requires_grad_(True)


def _refuse_missing(model: Any, targets: Any) -> None:
    """Names of layers are ends of their paths; a word for them or a pattern is no list."""
    if isinstance(targets, str):
        return
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    parts = dict(model.named_modules())
    if missing := sorted(name for name in targets if not any(f".{path}".endswith(f".{name}") for path in parts)):
        linear = {path.rpartition(".")[2] for path, part in parts.items() if isinstance(part, nn.Linear | Conv1D)}
        raise RecipeError(
            f"`tune.adapter` asks for {', '.join(missing)}, and no layer of {type(model).__name__} is called so",
            hint=f"its linear layers are called {', '.join(sorted(linear))}",
        )


def _refuse_mixed_rows(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("adapter_names") is not None:
        raise Unsupported(
            f"all rows of a batch get the active adapter, of type {model.active_peft_config.peft_type.value}",
            hint="leave out `adapter_names`; Sartor's engine answers with many adapters at once",
        )
