"""Making a PEFT model so that nothing is passed over in silence."""

from __future__ import annotations

from typing import Any

from sartor.errors import Unsupported


def peft_model(model: Any, config: Any) -> Any:
    """The model as a PEFT model with a new adapter: adapter weights in fp32, the base frozen.

    A call with `adapter_names` is refused. It asks for another adapter in each row, and of PEFT's methods all but LoRA
    (and two beside it) ignore it without a word: rows of the plain base would be answered by the adapter.
    """
    from peft import get_peft_model

    config.task_type = task_of(model)
    made: Any = get_peft_model(model, config, autocast_adapter_dtype=True)
    made.register_forward_pre_hook(_refuse_mixed_rows, with_kwargs=True)
    return made


def task_of(model: Any) -> str | None:
    """PEFT's word for what a model does; None where it generates nothing."""
    if not model.can_generate():
        return None
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def _refuse_mixed_rows(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("adapter_names") is not None:
        raise Unsupported(
            f"PEFT cannot mix adapters of type {model.active_peft_config.peft_type.value} in one batch",
            hint="leave out `adapter_names`; Sartor's engine answers with many adapters at once",
        )
