"""Prompt tuning: [P; E(x)], the embeddings P of virtual tokens before the text are all that is trained.

Lester et al. 2021 (arXiv 2104.08691), §2. PEFT's method, from words of the vocabulary: on PEFT's own benchmark random
ones do worse by a third. `ipt`, intrinsic prompt tuning (Qin et al. 2021, arXiv 2110.07867, §3.2), trains P as a
point of a small space; what comes out is the same adapter.

The paper has 100 tokens. Each is paid in every answer, and small data does not fill them: 20 here. Its learning rate
is high, 0.3; so are ours: SmolLM2-135M on 24 tickets has a held-out loss of 0.63 after 16 updates at 0.05, and of 1.85
at 0.01. A space that was drawn and not found needs more dimensions than the paper's: 40 updates of `ipt` on 8 labels
end at a loss of 4.3 in 250 dimensions (at any rate), of 2.5 in 2,000.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sartor.adapters.hooks import Hooks
from sartor.adapters.method import by_name
from sartor.adapters.saving import export as export
from sartor.adapters.virtual import live_prompt, num_virtual, preset, saved_prompt
from sartor.errors import RecipeError
from sartor.types import Frozen

if TYPE_CHECKING:
    from sartor.hub import Shape

TRAINS = "adapter"
PRESETS = {
    "prompt_tuning": preset(
        summary="embeddings of virtual tokens before the text",
        paper="arXiv 2104.08691",
        learning_rate=60.0,
    ),
    "ipt": preset(
        summary="a prompt as a point of a space of few dimensions",
        paper="arXiv 2110.07867",
        settings={"intrinsic": True},
        learning_rate=60.0,
    ),
}
PEFT_TYPES = ("PROMPT_TUNING",)
DIMENSIONS = 2000
HOOKS = Hooks(num_virtual=num_virtual, beginning=live_prompt)
changes = saved_prompt


class Config(Frozen):
    """`dimensions` and `decoder` are those of the small space of `ipt`."""

    tokens: int = Field(20, ge=1, le=1000, description="Virtual tokens before the text.")
    intrinsic: bool = by_name(False, "Train a point of a small space, which a decoder makes a prompt of.")
    dimensions: int = Field(
        0, ge=0, description="Of that space; 0: 2,000, or all that a small prompt has. With a decoder, 5 to 250."
    )
    decoder: str = Field("", description="A safetensors file that makes prompts of points; without one, a random map.")

    def num_dimensions(self, model_width: int) -> int:
        """Raises:
        RecipeError: a prompt has fewer numbers than `dimensions`.
        """
        numbers = self.tokens * model_width
        if self.dimensions > numbers:
            raise RecipeError(
                f"`tune.adapter.dimensions` is {self.dimensions}, and a prompt has {numbers} numbers",
                hint="fewer dimensions, more tokens, or prompt_tuning, which trains all of them",
            )
        return self.dimensions or min(DIMENSIONS, numbers)


def attach(model: Any, config: Config) -> Any:
    """The model as a PEFT model with new virtual tokens, copies of words drawn from the vocabulary.

    Raises:
        RecipeError: a prompt has fewer numbers than `dimensions`, or the decoder does not fit.
    """
    from peft import PromptTuningConfig, get_peft_model

    peft_config = PromptTuningConfig(
        num_virtual_tokens=config.tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(model, peft_config)
    start_PD = tuned.prompt_encoder["default"].embedding.weight.detach()
    if config.intrinsic:
        from sartor.adapters.virtual.intrinsic import from_file, without_corpus

        dimensions = config.num_dimensions(start_PD.shape[1])
        tuned.prompt_encoder["default"] = (
            from_file(Path(config.decoder), start_PD, dimensions)
            if config.decoder
            else without_corpus(start_PD, dimensions)
        )
    return tuned


def register() -> None:
    """PEFT has it, and what intrinsic prompt tuning saves is the same."""


def count(shape: Shape, config: Config) -> int:
    """Trainable parameters: the coordinates, or the numbers of the embeddings.

    Raises:
        RecipeError: a prompt has fewer numbers than `dimensions`.
    """
    return config.num_dimensions(shape.hidden) if config.intrinsic else config.tokens * shape.hidden
