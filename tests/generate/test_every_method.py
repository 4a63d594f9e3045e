"""Every tuning method's adapter in the engine: alone it gives what PEFT's forward gives, and mixed what it gives alone.

A new method joins by itself. Adapters of others, as PEFT writes them, are among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sartor.adapters import family_of, methods, preset_of
from sartor.generate import sartor
from sartor.generate.protocol import Engine, Sampling
from sartor.generate.several import Several

METHODS = sorted(method for method in methods() if family_of(method).TRAINS == "adapter")
#: Foreign adapters; virtual tokens fill a page and begin another one, or do not fill one.
FOREIGN: dict[str, Any] = {
    "foreign_lora": LoraConfig(r=5, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM"),
    "foreign_head": LoraConfig(r=3, target_modules=["lm_head", "o_proj"], task_type="CAUSAL_LM"),
    "foreign_dora": LoraConfig(use_dora=True, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    "foreign_ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "foreign_prompt": PromptTuningConfig(num_virtual_tokens=21, task_type="CAUSAL_LM"),
    "foreign_prefix": PrefixTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"),
}
NAMES = [*METHODS, *FOREIGN]
LENGTH = 4


def load(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def attached(base: Path, name: str) -> Any:
    """A new adapter on the base, as PEFT's model."""
    if name in FOREIGN:
        return get_peft_model(load(base), FOREIGN[name])
    family = family_of(name)
    return family.attach(load(base), family.Config(**family.PRESETS[name].settings))


def prompt_of(name: str | None) -> list[int]:
    dice = random.Random(str(name))
    return [dice.randrange(3, 480) for _ in range(dice.choice([4, 11, 18]))]


@pytest.fixture(scope="module")
def base(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("Llama")


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained adapter of each: every trainable number has moved."""
    made = {}
    for name in NAMES:
        model, made[name] = attached(base, name), tmp_path_factory.mktemp(name)
        torch.manual_seed(11)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        if name in FOREIGN:
            model.save_pretrained(made[name], save_embedding_layers=False)
        else:
            family_of(name).export(model, made[name])
    return made


@pytest.fixture(scope="module")
def engine(base: Path, folders: dict[str, Path]) -> Engine:
    return sartor.open_engine(base, folders, dtype="float32", num_threads=1)


class Logits:
    """What is chosen from, by row: a row's seed says which it is, and greedy rows need none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[int, list[torch.Tensor]] = {}
        plain = sartor.choose

        def note(logits_BV: torch.Tensor, asks: Sequence[Any]) -> list[int]:
            for logits_V, ask in zip(logits_BV, asks, strict=True):
                self.of.setdefault(ask.sampling.seed, []).append(logits_V.float())
            return plain(logits_BV, asks)

        monkeypatch.setattr("sartor.generate.sartor.choose", note)
        monkeypatch.setattr("sartor.generate.peft.choose", note)


def answer(engine: Engine, rows: Sequence[tuple[int, str | None]]) -> dict[int, list[int]]:
    """Greedy answers of one batch, by the rows' numbers."""
    number_of, answers = {}, {}
    for number, name in rows:
        handle = engine.submit(prompt_of(name), Sampling(LENGTH, frozenset(), seed=number), name)
        number_of[handle], answers[number] = number, []
    while engine.requests:
        for token in engine.advance():
            answers[number_of[token.row]].append(token.id)
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_alone_it_gives_what_peft_gives(
    name: str, base: Path, folders: dict[str, Path], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, ids = Logits(monkeypatch), prompt_of(name)
    (tokens,) = answer(engine, [(0, name)]).values()
    whole = torch.tensor([[*ids, *tokens]])
    with torch.no_grad():
        plain = PeftModel.from_pretrained(load(base), str(folders[name])).eval()
        wanted_TV = plain(input_ids=whole).logits[0, -whole.shape[1] :]
    torch.testing.assert_close(torch.stack(told.of[0]), wanted_TV[len(ids) - 1 : -1], rtol=1e-5, atol=1e-5)
    assert tokens == wanted_TV[len(ids) - 1 : -1].argmax(dim=-1).tolist()
    logprobs_TV = torch.log_softmax(wanted_TV[:-1], dim=-1)
    summed = float(logprobs_TV.gather(1, whole[0, 1:, None]).sum())
    assert engine.logprobs(whole.tolist(), name)[0] == pytest.approx(summed, abs=1e-4)


def test_mixed_in_one_batch_all_give_what_they_give_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Logits(monkeypatch)
    rows = list(enumerate([None, *NAMES, None]))
    alone = {number: answer(engine, [(number, name)])[number] for number, name in rows}
    logits, told.of = told.of, {}
    assert answer(engine, rows) == alone
    for number, _ in rows:
        torch.testing.assert_close(torch.stack(told.of[number]), torch.stack(logits[number]), rtol=1e-5, atol=1e-5)


def test_one_forward_a_step_however_many_kinds(engine: Engine) -> None:
    """Those that cannot be mixed have an engine of their own beside."""
    assert isinstance(engine, Several)
    ours, beside = engine._engines
    assert set(beside.adapters) == {name for name in METHODS if not preset_of(name).mixable}
    assert len(engine.warnings) == len(beside.adapters)
    sizes = []
    ours._model.register_forward_pre_hook(lambda *_: sizes.append(1))  # type: ignore[attr-defined]
    answer(ours, list(enumerate([None, *ours.adapters])))
    assert len(sizes) == LENGTH
