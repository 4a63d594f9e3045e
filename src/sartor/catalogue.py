"""The models we know by name: what one wants to know before choosing a base. Facts from the models' own cards."""

# ruff: noqa: E501 - a table is read by its rows

from __future__ import annotations

from sartor.types import Frozen


class Card(Frozen):
    """One model. `parameters` in millions, `context` in tokens, `cutoff` as its makers state it."""

    name: str
    family: str
    parameters: int
    licence: str
    context: int
    cutoff: str
    source: str
    tunable_on: str


_CPU = "laptop CPU, any GPU"
_SMALL_GPU = "CPU with patience, GPU from 8 GB"
_GPU = "GPU from 24 GB, QLoRA from 12 GB"

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
    )
    for name, family, parameters, licence, context, cutoff, source, tunable_on in (
        ("smollm2-135m-instruct", "SmolLM2", 135, "Apache-2.0", 8192, "not stated", "embedded", _CPU),
        ("smollm2-360m-instruct", "SmolLM2", 362, "Apache-2.0", 8192, "not stated", "HuggingFaceTB/SmolLM2-360M-Instruct", _CPU),
        ("smollm2-1.7b-instruct", "SmolLM2", 1711, "Apache-2.0", 8192, "not stated", "HuggingFaceTB/SmolLM2-1.7B-Instruct", _SMALL_GPU),
        ("qwen3-0.6b", "Qwen3", 596, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-0.6B", _CPU),
        ("qwen3-1.7b", "Qwen3", 1721, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-1.7B", _SMALL_GPU),
        ("qwen3-4b", "Qwen3", 4022, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-4B", _GPU),
        ("qwen3-8b", "Qwen3", 8191, "Apache-2.0", 40960, "not stated", "Qwen/Qwen3-8B", _GPU),
        ("llama-3.2-1b-instruct", "Llama 3.2", 1236, "Llama 3.2 Community", 131072, "December 2023", "meta-llama/Llama-3.2-1B-Instruct", _SMALL_GPU),
        ("llama-3.2-3b-instruct", "Llama 3.2", 3213, "Llama 3.2 Community", 131072, "December 2023", "meta-llama/Llama-3.2-3B-Instruct", _GPU),
        ("llama-3.1-8b-instruct", "Llama 3.1", 8030, "Llama 3.1 Community", 131072, "December 2023", "meta-llama/Llama-3.1-8B-Instruct", _GPU),
        ("gemma-3-1b-it", "Gemma 3", 1000, "Gemma Terms of Use", 32768, "August 2024", "google/gemma-3-1b-it", _SMALL_GPU),
        ("phi-4-mini-instruct", "Phi-4", 3836, "MIT", 131072, "June 2024", "microsoft/Phi-4-mini-instruct", _GPU),
        ("mistral-7b-instruct-v0.3", "Mistral", 7248, "Apache-2.0", 32768, "not stated", "mistralai/Mistral-7B-Instruct-v0.3", _GPU),
    )
)  # fmt: skip


def card(name: str) -> Card | None:
    """The card of a catalogue name, whatever its case."""
    return next((card for card in CATALOGUE if card.name == name.lower()), None)
