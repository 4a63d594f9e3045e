"""P-tuning: the embeddings of virtual tokens come out of a small network, which is trained with them.

Liu et al. 2021 (arXiv 2103.10385), §3: an LSTM or an MLP over pseudo tokens, anywhere in a template. PEFT's method has
them before the text, and the base frozen. Of the network only what it gives is saved: from there on it is a prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sartor.adapters.hooks import Hooks
from sartor.adapters.saving import export as export
from sartor.adapters.virtual import live_prompt, num_virtual, preset, saved_prompt
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "p_tuning": preset(
        summary="virtual tokens before the text, made by a small network",
        paper="arXiv 2103.10385",
        learning_rate=20.0,  # 40 updates of SmolLM2 on 8 labels end at a loss of 2.3, and of 4.9 at LoRA's own
    )
}
PEFT_TYPES = ("P_TUNING",)
HOOKS = Hooks(num_virtual=num_virtual, beginning=live_prompt)
changes = saved_prompt


class Config(Frozen):
    """PEFT's benchmark has the MLP; the LSTM goes both ways over the tokens, with half the model's width each way."""

    tokens: int = Field(20, ge=1, le=1000, description="Virtual tokens before the text.")
    encoder: Literal["mlp", "lstm"] = Field("mlp", description="The network that makes them: three layers, or an LSTM.")
    width: int = Field(
        0,
        ge=0,
        description="Of its hidden layers; an LSTM's of each direction. 0: the model's width, half for an LSTM.",
    )

    def hidden(self, model_width: int) -> int:
        return self.width or (model_width if self.encoder == "mlp" else model_width // 2)


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with a new encoder."""
    from peft import PromptEncoderConfig, get_peft_model

    peft_config = PromptEncoderConfig(
        num_virtual_tokens=config.tokens,
        encoder_reparameterization_type=config.encoder.upper(),
        encoder_hidden_size=config.hidden(model.get_input_embeddings().embedding_dim),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, peft_config)


def register() -> None:
    """PEFT has it."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: the tokens, and every layer of the network with its bias."""
    model, hidden = shape.hidden, config.hidden(shape.hidden)
    if config.encoder == "mlp":
        layers = [(model, hidden), (hidden, hidden), (hidden, model)]
        recurrent = 0
    else:
        both = 2 * hidden
        layers = [(both, both), (both, model)]
        inputs = (model, both)  # of the two layers of the LSTM; each direction has four gates with two biases
        recurrent = sum(2 * 4 * hidden * (width + hidden + 2) for width in inputs)
    return config.tokens * model + sum((inputs + 1) * outputs for inputs, outputs in layers) + recurrent
