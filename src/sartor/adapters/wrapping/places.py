"""Where adapters stand in a model: at the end of its attention and feed-forward sublayers, or beside the latter.

A sublayer's last linear layer gives what is added to the residual stream, so wrapping it is exact, whether a model's
norms stand before its sublayers or after. Decoders with cross-attention get none there, as in the published counts for
T5 (Mahabadi et al. 2021, arXiv 2106.04647, table 1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sartor.errors import RecipeError

if TYPE_CHECKING:
    from sartor.hub import Shape

#: After attention and feed-forward layer both, after the latter only, or beside it.
Place = Literal["both", "feed_forward", "beside"]


@dataclass(frozen=True, slots=True)
class Places:
    """Patterns for the ends of module paths. `whole` is the feed-forward layer; "" where it is no module of its own."""

    attention: str
    feed_forward: str
    whole: str
    norms: str


#: The first that is found in a model holds.
KNOWN = (
    # Llama, Mistral, Qwen, Gemma, Phi, SmolLM, OLMo, Granite
    Places(r"self_attn\.o_proj", r"mlp\.down_proj", r"layers\.\d+\.mlp", r"(?:input|post_attention)_layernorm|norm"),
    # GPT-2
    Places(r"attn\.c_proj", r"mlp\.c_proj", r"h\.\d+\.mlp", r"ln_[12f]"),
    # GPT-NeoX, Pythia
    Places(
        r"attention\.dense",
        r"mlp\.dense_4h_to_h",
        r"layers\.\d+\.mlp",
        r"(?:input|post_attention|final)_layernorm|final_layer_norm",
    ),
    # T5
    Places(r"SelfAttention\.o", r"DenseReluDense\.wo", r"layer\.\d+\.DenseReluDense", r"(?:final_)?layer_norm"),
    # BERT, RoBERTa, ELECTRA, DeBERTa
    Places(r"attention\.output\.dense", r"layer\.\d+\.output\.dense", "", r"LayerNorm"),
    # DistilBERT
    Places(r"attention\.out_lin", r"ffn\.lin2", r"layer\.\d+\.ffn", r"\w*[lL]ayer_?[nN]orm"),
    # OPT, BART
    Places(r"self_attn\.out_proj", r"layers\.\d+\.fc2", "", r"\w*layer_?norm\w*"),
)


def targets(model: Any, place: Place, *, norms: bool) -> str:
    """The pattern for the paths of the modules that are adapted, as PEFT's `target_modules` takes it.

    Raises:
        RecipeError: the model keeps its sublayers in a way that is not known, or has nothing to stand beside.
    """
    places = _places_of([path for path, _ in model.named_modules()])
    if places is None:
        raise RecipeError(
            f"`tune.adapter`: where the sublayers of {type(model).__name__} end is not known",
            hint="choose lora, or a model of the Llama, Qwen, Gemma, GPT-2, GPT-NeoX, T5, BERT or OPT families",
        )
    if place == "beside" and not places.whole:
        raise RecipeError(
            f"`tune.adapter`: {type(model).__name__} has no feed-forward layer of one module to stand beside",
            hint="choose bottleneck or pfeiffer",
        )
    ends = {
        "both": f"{places.attention}|{places.feed_forward}",
        "feed_forward": places.feed_forward,
        "beside": places.whole,
    }[place]
    return _ending(f"{ends}|{places.norms}" if norms else ends)


def _places_of(paths: Sequence[str]) -> Places | None:
    """Where there are other numbers of the two sublayers, some are of a kind that is not known, such as of experts."""
    for places in KNOWN:
        attention, feed_forward = (
            sum(re.fullmatch(_ending(end), path) is not None for path in paths)
            for end in (places.attention, places.feed_forward)
        )
        if attention == feed_forward > 0:
            return places
    return None


def _ending(ends: str) -> str:
    return rf"(?:.*\.)?(?:{ends})"


def num_adapters(shape: Shape, place: Place) -> int:
    """Adapters of a decoder."""
    return shape.num_layers * (2 if place == "both" else 1)


def num_norm_weights(shape: Shape) -> int:
    """Parameters of a decoder's norms: two in each layer, and the final one."""
    return (2 * shape.num_layers + 1) * shape.hidden
