"""The models we know by name: what one wants to know before choosing a base. Facts from the models' own cards."""

# ruff: noqa: E501 - a table is read by its rows

from __future__ import annotations

from sartor.types import Frozen, Kind


class Sizes(Frozen):
    """The sizes that decide memory and time, as the model's own configuration has them."""

    num_layers: int
    hidden: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    tied: bool


class Card(Frozen):
    """One model. `parameters` in millions, `context` in tokens as `hub.shape` has it, `cutoff` as its makers state it."""

    name: str
    family: str
    parameters: int
    licence: str
    context: int
    cutoff: str
    source: str
    tunable_on: str
    sizes: Sizes
    kind: Kind = "decoder"

    @property
    def model_type(self) -> str:
        """As transformers calls it, where its blocks have more than Llama's; "" for all others."""
        return {"Qwen3": "qwen3", "Gemma 3": "gemma3_text"}.get(self.family, "")


EMBEDDED = "embedded"  # the source of a model that a package carries
_CPU = "laptop CPU, any GPU"
_SMALL_GPU = "CPU with patience, GPU from 8 GB"
_GPU = "GPU from 24 GB"
_LARGE_GPU = "GPU from 48 GB"
_GPUS = "GPU from 80 GB, several for speed"

#: Layers, hidden, inner, heads, key-value heads, head size, vocabulary, tied. Counted on the meta device by a test.
_SIZES = {
    "smollm2-135m-instruct": (30, 576, 1536, 9, 3, 64, 49152, True),
    "smollm2-360m-instruct": (32, 960, 2560, 15, 5, 64, 49152, True),
    "smollm2-1.7b-instruct": (24, 2048, 8192, 32, 32, 64, 49152, True),
    "qwen3-0.6b": (28, 1024, 3072, 16, 8, 128, 151936, True),
    "qwen3-1.7b": (28, 2048, 6144, 16, 8, 128, 151936, True),
    "qwen3-4b": (36, 2560, 9728, 32, 8, 128, 151936, True),
    "qwen3-8b": (36, 4096, 12288, 32, 8, 128, 151936, False),
    "qwen3-14b": (40, 5120, 17408, 40, 8, 128, 151936, False),
    "qwen3-32b": (64, 5120, 25600, 64, 8, 128, 151936, False),
    "llama-3.2-1b-instruct": (16, 2048, 8192, 32, 8, 64, 128256, True),
    "llama-3.2-3b-instruct": (28, 3072, 8192, 24, 8, 128, 128256, True),
    "llama-3.1-8b-instruct": (32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-3.3-70b-instruct": (80, 8192, 28672, 64, 8, 128, 128256, False),
    "gemma-3-1b-it": (26, 1152, 6912, 4, 1, 256, 262144, True),
    "phi-4-mini-instruct": (32, 3072, 8192, 24, 8, 128, 200064, True),
    "phi-4": (40, 5120, 17920, 40, 10, 128, 100352, False),
    "mistral-7b-instruct-v0.3": (32, 4096, 14336, 32, 8, 128, 32768, False),
    "mistral-small-24b-instruct": (40, 5120, 32768, 32, 8, 128, 131072, False),
    "all-minilm-l6-v2": (6, 384, 1536, 12, 12, 32, 30522, True),
}
_ENCODERS = frozenset({"all-minilm-l6-v2"})

CATALOGUE: tuple[Card, ...] = tuple(
    Card(
        name=name,
        family=family,
        parameters=parameters,
        licence=licence,
        context=context,
        cutoff=cutoff,
        source=source,
        tunable_on=tunable_on,
        sizes=Sizes.model_validate(dict(zip(Sizes.model_fields, _SIZES[name], strict=True))),
        kind="encoder" if name in _ENCODERS else "decoder",
    )
    for name, family, parameters, licence, context, cutoff, source, tunable_on in (
        ("smollm2-135m-instruct", "SmolLM2", 135, "Apache-2.0", 8192, "not stated", EMBEDDED, _CPU),
        ("smollm2-360m-instruct", "SmolLM2", 362, "Apache-2.0", 8192, "not stated", "HuggingFaceTB/SmolLM2-360M-Instruct", _CPU),
        ("smollm2-1.7b-instruct", "SmolLM2", 1711, "Apache-2.0", 8192, "not stated", "HuggingFaceTB/SmolLM2-1.7B-Instruct", _SMALL_GPU),
        ("qwen3-0.6b", "Qwen3", 596, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-0.6B", _CPU),
        ("qwen3-1.7b", "Qwen3", 1721, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-1.7B", _SMALL_GPU),
        ("qwen3-4b", "Qwen3", 4022, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-4B", _GPU),
        ("qwen3-8b", "Qwen3", 8191, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-8B", _GPU),
        ("qwen3-14b", "Qwen3", 14768, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-14B", _LARGE_GPU),
        ("qwen3-32b", "Qwen3", 32762, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-32B", _GPUS),
        ("llama-3.2-1b-instruct", "Llama 3.2", 1236, "Llama 3.2 Community", 131072, "December 2023", "meta-llama/Llama-3.2-1B-Instruct", _SMALL_GPU),
        ("llama-3.2-3b-instruct", "Llama 3.2", 3213, "Llama 3.2 Community", 131072, "December 2023", "meta-llama/Llama-3.2-3B-Instruct", _GPU),
        ("llama-3.1-8b-instruct", "Llama 3.1", 8030, "Llama 3.1 Community", 131072, "December 2023", "meta-llama/Llama-3.1-8B-Instruct", _GPU),
        ("llama-3.3-70b-instruct", "Llama 3.3", 70554, "Llama 3.3 Community", 131072, "December 2023", "meta-llama/Llama-3.3-70B-Instruct", _GPUS),
        ("gemma-3-1b-it", "Gemma 3", 1000, "Gemma Terms of Use", 32768, "August 2024", "google/gemma-3-1b-it", _SMALL_GPU),
        ("phi-4-mini-instruct", "Phi-4", 3836, "MIT", 4096, "June 2024", "microsoft/Phi-4-mini-instruct", _GPU),
        ("phi-4", "Phi-4", 14660, "MIT", 16384, "June 2024", "microsoft/phi-4", _LARGE_GPU),
        ("mistral-7b-instruct-v0.3", "Mistral", 7248, "Apache-2.0", 32768, "not stated", "mistralai/Mistral-7B-Instruct-v0.3", _GPU),
        ("mistral-small-24b-instruct", "Mistral", 23572, "Apache-2.0", 32768, "October 2023", "mistralai/Mistral-Small-24B-Instruct-2501", _LARGE_GPU),
        ("all-minilm-l6-v2", "MiniLM", 23, "Apache-2.0", 512, "not stated", EMBEDDED, _CPU),
    )
)  # fmt: skip


def card(name: str) -> Card | None:
    """The card of a catalogue name, or of the hub's, whatever its case."""
    return next((card for card in CATALOGUE if name.lower() in {card.name, card.source.lower()} - {EMBEDDED}), None)
