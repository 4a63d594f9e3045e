"""transformers and PEFT as they are: rows of one kind together, one set of weights, and no traces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sartor.errors import ModelError, UserError
from sartor.generate import peft, sartor
from sartor.generate.protocol import Sampling

GREEDY = Sampling(max_new_tokens=5, stop_ids=frozenset())


@pytest.fixture(scope="module")
def base(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("Llama")


@pytest.fixture(scope="module")
def engine(
    base: Path, make_adapters: Callable[..., dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> peft.PeftEngine:
    folder = tmp_path_factory.mktemp("prefix")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=6, task_type="CAUSAL_LM")).save_pretrained(folder)
    return peft.open_engine(base, {**make_adapters(base, "calls"), "prefix": folder}, dtype="float32", num_threads=1)


def answered(engine: peft.PeftEngine, prompts: list[list[int]]) -> list[list[int]]:
    """What the base answers to prompts that leave one by one: the first after three tokens, each after one more."""
    places = {engine.submit(prompt, Sampling(3 + n, frozenset()), None): n for n, prompt in enumerate(prompts)}
    rows: list[list[int]] = [[] for _ in prompts]
    while engine.requests:
        for token in engine.advance():
            rows[places[token.row]].append(token.id)
    return rows


def test_rows_of_one_kind_are_computed_together_and_leave_one_by_one(
    engine: peft.PeftEngine, base: Path, plain_answers: Callable[..., list[list[int]]]
) -> None:
    prompts = [[5, 6, 7], [9, 8, 7], [4, 3, 2]]
    wanted = plain_answers(base, prompts, 5)
    sizes: list[int] = []
    model: Any = engine._models[None].begin
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    rows = answered(engine, prompts)
    handle.remove()
    assert rows == [whole[: 3 + n] for n, whole in enumerate(wanted)]
    assert sizes == [3, 3, 3, 2, 1]


def test_rows_leave_a_batch_whose_state_is_more_than_keys_and_values(
    tmp_path: Path, plain_answers: Callable[..., list[list[int]]]
) -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(2)
    sizes = {"vocab_size": 480, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
    Lfm2ForCausalLM(Lfm2Config(**sizes, **heads)).save_pretrained(tmp_path)
    mixed = peft.open_engine(tmp_path, {}, dtype="float32", num_threads=1)
    prompts = [[5, 6, 7], [9, 8, 7], [4, 3, 2]]
    rows = answered(mixed, prompts)
    assert rows == [whole[: 3 + n] for n, whole in enumerate(plain_answers(tmp_path, prompts, 5))]


def test_long_texts_are_weighed_a_stretch_at_a_time(engine: peft.PeftEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.logprobs([list(range(5, 90))], "calls")
    monkeypatch.setattr(peft, "WEIGHED", 8)
    assert engine.logprobs([list(range(5, 90))], "calls") == pytest.approx(whole, rel=1e-9)


def test_all_models_are_on_the_same_weights(engine: peft.PeftEngine) -> None:
    plain = dict(engine._models[None].begin.named_parameters())
    for name in ("calls", "prefix"):
        theirs = {each.data_ptr() for each in engine._models[name].begin.parameters()}
        assert {each.data_ptr() for each in plain.values()} <= theirs
    assert not any(type(part).__module__.startswith("peft") for part in engine._models[None].begin.modules())


def test_virtual_tokens_count_in_the_context(engine: peft.PeftEngine) -> None:
    engine.cancel(engine.submit([5] * 249, GREEDY, "prefix"))
    with pytest.raises(UserError, match="the context is 250 tokens"):
        engine.submit([5] * 250, GREEDY, "prefix")
    with pytest.raises(UserError, match="cannot be weighed"):
        engine.logprobs([[5] * 251], "prefix")


def test_no_more_rows_than_allowed(base: Path) -> None:
    narrow = peft.open_engine(base, {}, dtype="float32", max_rows=2)
    for _ in range(3):
        narrow.submit([5, 6], Sampling(2, frozenset()), None)
    assert [len(narrow.advance()) for _ in range(5)] == [2, 2, 1, 1, 0]


def test_a_model_without_torchs_attention_answers_by_its_own(
    tmp_path: Path, plain_answers: Callable[..., list[list[int]]]
) -> None:
    """Its attention has sinks, which our cache refuses, and torch's product does not know."""
    from transformers import GraniteSWAConfig, GraniteSWAForCausalLM

    torch.manual_seed(2)
    sizes = {"vocab_size": 480, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    GraniteSWAForCausalLM(GraniteSWAConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(
        tmp_path
    )
    prompts = [[5, 6, 7], [9, 8, 7]]
    wanted = plain_answers(tmp_path, prompts, 4)
    for kind in (peft, sartor):
        engine = kind.open_engine(tmp_path, {}, dtype="float32", num_threads=1)
        assert answered(engine, prompts) == [whole[: 3 + n] for n, whole in enumerate(wanted)]


def test_an_adapter_of_another_model_is_refused(
    base: Path, family_folder: Callable[[str], Path], make_adapters: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 480, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="PEFT cannot load the adapter") as refused:
        peft.open_engine(tmp_path, make_adapters(base, "calls"), dtype="float32")
    assert refused.value.hint
