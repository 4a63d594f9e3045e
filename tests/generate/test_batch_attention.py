"""Attention layers by fewer calls: where they bring the same to the cache and make the same of it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, SmolLM3Config

from sartor.adapters.changes import Changes, Weight
from sartor.generate.batch import attention
from sartor.generate.batch.attention import Attention
from sartor.generate.protocol import Sampling
from sartor.generate.sartor import SartorEngine
from sartor.hub import shape
from sartor.ops import decode, native

from ..engines import answers  # noqa: TID252 - the tests are no package to import by name
from .conftest import FAMILIES, SIZES

Answers = Callable[..., list[list[int]]]
PROMPTS = [[5, 9, 30, 7], list(range(3, 43)), [8]]
GREEDY = Sampling(max_new_tokens=12, stop_ids=frozenset())
SIZE = 32  # of a head: half of one, which turns, is a multiple of what the kernels take
needs_kernels = pytest.mark.skipif(bool(native.problem()), reason=native.problem())


def open_on(folder: Path, *adapters: Changes, odd: Callable[[nn.Module], None] = lambda model: None) -> SartorEngine:
    """Our engine on a folder's model, which `odd` may change first."""
    decode.register()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    odd(model)
    named = {str(number): adapter for number, adapter in enumerate(adapters)}
    return SartorEngine(model, shape(folder), named, cache_bytes=1 << 22, max_rows=8)


def kinds(engine: SartorEngine) -> list[type[nn.Module]]:
    return [type(layer.self_attn) for layer in engine._model.model.layers]


@needs_kernels
@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_of_a_known_family(family: str, family_folder: Callable[..., Path], plain_answers: Answers) -> None:
    names: set[str] = set()
    folder = family_folder(family, head_dim=SIZE)
    engine = open_on(folder, odd=lambda model: names.update(name for name, _ in model.named_modules()))
    assert kinds(engine) == [Attention] * 3
    assert {name for name, _ in engine._model.named_modules()} == names, "adapters find parts by their names"
    assert answers(engine, PROMPTS, GREEDY) == plain_answers(folder, PROMPTS, 12)


@needs_kernels
def test_layers_that_do_not_turn(tmp_path: Path, plain_answers: Answers) -> None:
    torch.manual_seed(3)
    config = SmolLM3Config(**{**SIZES, "head_dim": SIZE}, no_rope_layers=[1, 0, 1])
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(tmp_path)
    engine = open_on(tmp_path)
    assert kinds(engine) == [Attention] * 3
    assert answers(engine, PROMPTS, GREEDY) == plain_answers(tmp_path, PROMPTS, 12)


def louder(layer: nn.Module) -> type[nn.Module]:
    """A layer that doubles what it made."""

    class Louder(type(layer)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            made, weights = super().forward(*args, **kwargs)
            return 2.0 * made, weights

    return Louder


def farther(layer: nn.Module) -> type[nn.Module]:
    """A layer that turns queries and keys twice as far: what it makes of its first token is the same."""

    class Farther(type(layer)):  # type: ignore[misc]
        def forward(self, *args: Any, position_embeddings: Any, **kwargs: Any) -> Any:
            cosine, sine = position_embeddings
            twice = cosine * cosine - sine * sine, 2.0 * sine * cosine
            return super().forward(*args, position_embeddings=twice, **kwargs)

    return Farther


@needs_kernels
@pytest.mark.parametrize("odd", [louder, farther])
def test_a_layer_that_computes_something_else_stays(
    odd: Callable[[nn.Module], type[nn.Module]],
    family_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its numbers: the names in its code are let pass here. What the trials wrote into the cache is written over."""
    monkeypatch.setattr(attention, "strange_names", lambda layer: [])

    def change(model: Any) -> None:
        model.model.layers[1].self_attn.__class__ = odd(model.model.layers[1].self_attn)

    folder = family_folder("Llama", head_dim=SIZE)
    engine = open_on(folder, odd=change)
    assert [kind is Attention for kind in kinds(engine)] == [True, False, True]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    change(model)
    for prompt, found in zip(PROMPTS, answers(engine, PROMPTS, GREEDY), strict=True):
        made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
        assert found == made[0, len(prompt) :].tolist()


@needs_kernels
def test_a_layer_stays_where_an_adapter_waits_inside(family_folder: Callable[..., Path]) -> None:
    folder = family_folder("Qwen3", head_dim=SIZE)
    norm = Weight(torch.full((SIZE,), 0.5))
    engine = open_on(folder, Changes({"model.layers.1.self_attn.q_norm": (norm,)}))
    assert [kind is Attention for kind in kinds(engine)] == [True, False, True]
    assert answers(engine, PROMPTS, GREEDY, adapter="0") != answers(engine, PROMPTS, GREEDY)
