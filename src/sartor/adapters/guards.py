"""Making a PEFT model so that nothing is passed over in silence."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sartor.errors import Unsupported
from sartor.hardware import environment_kept

COMPILERS = ("CC", "CXX")


def peft_model(model: Any, config: Any) -> Any:
    """The model as a PEFT model with a new adapter: adapter weights in fp32, the base frozen.

    A call with `adapter_names` is refused. It asks for another adapter in each row, and of PEFT's methods all but LoRA
    (and two beside it) ignore it without a word: rows of the plain base would be answered by the adapter.
    """
    from peft import get_peft_model

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


def _refuse_mixed_rows(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("adapter_names") is not None:
        raise Unsupported(
            f"PEFT cannot mix adapters of type {model.active_peft_config.peft_type.value} in one batch",
            hint="leave out `adapter_names`; Sartor's engine answers with many adapters at once",
        )
