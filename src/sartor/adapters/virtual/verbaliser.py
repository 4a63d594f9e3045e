"""WARP as a PEFT method: PEFT's prompt tuning, with trained rows of the head beside it.

PEFT picks the class of a model by the type of its task, and its own classes set up no encoder that they do not know.
So the method brings a class, under a task of its own: `registration` makes both known.

Shapes: V vocabulary · D hidden size · C tokens whose rows of the head are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModelForCausalLM, PromptEmbedding, PromptTuningConfig
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from torch import nn

from sartor.adapters import registration

NAME = "sartor_warp"
TASK = NAME.upper()
TOKENS, ROWS, BIAS = "verbaliser_tokens", "verbaliser_rows", "verbaliser_bias"  # in the saved file


@dataclass
class WarpConfig(PromptTuningConfig):  # type: ignore[misc] # PEFT has no types
    """Prompt tuning's settings, and how many rows of the head are trained."""

    num_verbalisers: int = 0

    def __post_init__(self) -> None:
        self.task_type = None  # PEFT refuses one of ours
        super().__post_init__()
        self.task_type, self.peft_type = TASK, registration.type_named(NAME)


class WarpEncoder(PromptEmbedding):  # type: ignore[misc] # PEFT has no types
    """Embeddings of virtual tokens, and a vector and a bias for each of a few words of the vocabulary."""

    def __init__(self, config: WarpConfig, words: nn.Embedding, head_VD: torch.Tensor) -> None:
        super().__init__(config, words)
        self.register_buffer("tokens_C", torch.arange(config.num_verbalisers, device=head_VD.device))
        self.rows_CD = nn.Parameter(head_VD[: config.num_verbalisers].detach().float().clone())
        self.bias_C = nn.Parameter(torch.zeros(config.num_verbalisers, device=head_VD.device))

    @torch.no_grad()
    def choose(self, tokens_C: torch.Tensor, head_VD: torch.Tensor) -> None:
        """Let the vectors be those of other words, as the head has them."""
        self.tokens_C.copy_(tokens_C)
        self.rows_CD.copy_(head_VD[tokens_C])

    @classmethod
    def _get_adapter_state_dict(cls, model: Any, config: Any, adapter_name: str, **rest: Any) -> dict[str, Any]:
        own = model.prompt_encoder[adapter_name]
        saved = super()._get_adapter_state_dict(model=model, config=config, adapter_name=adapter_name, **rest)
        return {**saved, TOKENS: own.tokens_C, ROWS: own.rows_CD.detach(), BIAS: own.bias_C.detach()}

    def _load_adapter_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        super()._load_adapter_state_dict(state_dict)
        with torch.no_grad():
            for place, name in ((self.tokens_C, TOKENS), (self.rows_CD, ROWS), (self.bias_C, BIAS)):
                place.copy_(state_dict[name])


class VerbalisedHead(nn.Module):
    """A head some of whose logits come from the active adapter of a PEFT model, while that is in use."""

    def __init__(self, base_layer: nn.Module, owner: PeftModelForCausalLM) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._owner = (owner,)  # in a tuple, so that it is no part of its own part

    @property
    def weight(self) -> Any:
        return self.base_layer.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base_layer(hidden)
        owner = self._owner[0]
        if owner._adapters_disabled:
            return logits
        own = owner.prompt_encoder[owner.active_adapter]
        found = F.linear(hidden, own.rows_CD.to(hidden.dtype), own.bias_C.to(hidden.dtype))
        return logits.index_copy(-1, own.tokens_C, found)


class WarpForCausalLM(PeftModelForCausalLM):  # type: ignore[misc] # PEFT has no types
    """A PEFT model that knows how to set up this encoder, and gives its base the head that asks it."""

    def _setup_prompt_encoder(self, adapter_name: str) -> None:
        config = self.peft_config[adapter_name]
        config.num_transformer_submodules = 1
        base = self.base_model
        if "prompt_encoder" not in self._modules:
            base.requires_grad_(False)
            base.set_output_embeddings(VerbalisedHead(base.get_output_embeddings(), self))
            self.word_embeddings = base.get_input_embeddings()
            self.prompt_encoder, self.prompt_tokens = nn.ModuleDict(), {}
        encoder = WarpEncoder(config, self.word_embeddings, base.get_output_embeddings().weight)
        self.prompt_encoder[adapter_name] = encoder.to(self.device)
        self.prompt_tokens[adapter_name] = torch.arange(config.num_virtual_tokens)


def register() -> None:
    """Make the method known to PEFT."""
    registration.register(NAME, WarpConfig, WarpEncoder)
    MODEL_TYPE_TO_PEFT_MODEL_MAPPING[TASK] = WarpForCausalLM
