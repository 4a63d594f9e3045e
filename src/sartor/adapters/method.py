"""What a tuning method says of itself: its settings over those of its family, and how what comes out is served."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sartor.types import Frozen, Json

#: Who can answer with what a method made. "vLLM after merge" needs `sartor convert --to model`, "vLLM after conversion"
#: `sartor convert --to lora`; "llama.cpp" takes a LoRA as a GGUF file, and a merged model.
Server = Literal["vLLM as is", "vLLM after conversion", "vLLM after merge", "llama.cpp", "Sartor's engine"]


class Preset(Frozen):
    """One method of a family.

    `mergeable`: the base's own layers can give what it gives, by other weights. `packable`: many examples go through
    one flat forward; else one by one. `mixable`: Sartor's engine answers with it beside others in one batch.
    `learning_rate`: the usual one, as a multiple of LoRA's on the same base. `not_identity`: why an adapter
    that was not trained yet answers otherwise than its base; "" where it does not. `quantize`: the kind of base that it
    wants where the recipe names none ("" is any). `moves_base`: what it does with the base's own weights beside
    computing with them, so that it cannot have a quantised one; "" where it does nothing. `cuttable`: the base's layers
    may be cut over several devices (FSDP), which have their weights only while they compute. `layers`: who computes the
    base's layers in training on a CPU: the hand-written ones, transformers' own, or, where no gradient enters the base,
    either, and nothing of it is kept for a backward.
    """

    summary: str
    paper: str
    served_by: tuple[Server, ...]
    settings: Json = Field(default_factory=dict)
    mergeable: bool = True
    packable: bool = True
    mixable: bool = True
    learning_rate: float = 1.0
    not_identity: str = ""
    quantize: str = ""
    moves_base: str = ""
    cuttable: bool = True
    layers: Literal["hand-written", "transformers", "without backward"] = "transformers"


#: Why a method that is not `cuttable` is refused, and the way out.
UNCUTTABLE = (
    "this tuning method computes with weights of the base's layers by itself, and this base is cut over the devices",
    "take a smaller base, devices with more memory, or another method",
)
#: Marks a setting in a family's `Config` that makes another method of it.
BY_NAME = "asked for by the method's name"


def by_name(default: Any, description: str) -> Any:
    """A setting that only presets set. Asked for under another method's name it would belie what that preset says."""
    return Field(default, description=f"{description} Set by the method's name.", json_schema_extra={BY_NAME: True})
