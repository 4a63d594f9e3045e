"""Our engine against Hugging Face's own generation, on a tiny model in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sartor.generate.protocol import Sampling, Token
from sartor.generate.sartor import SartorEngine, open_engine

PROMPTS = [[1, 4093, 198, 504 + n, 77, 900 + 31 * n][: 3 + n % 4] for n in range(6)]
GREEDY = Sampling(max_new_tokens=6, stop_ids=frozenset())


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters with random weights, as PEFT writes them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for seed, name in enumerate(("tickets-1.2", "calls")):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
        folders[name] = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def engine(tiny_folder: Path, adapters: dict[str, Path]) -> SartorEngine:
    return open_engine(tiny_folder, adapters, dtype="float32", num_threads=1)


def answers(
    engine: SartorEngine, prompts: list[list[int]], sampling: Sampling = GREEDY, adapter: str | None = None
) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in prompts]
    for token in engine.stream(prompts, sampling, adapter):
        rows[token.row].append(token.id)
    return rows


def test_greedy_answers_equal_plain_generate(engine: SartorEngine, tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    wanted = [
        model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=-1)[
            0, len(prompt) :
        ].tolist()
        for prompt in PROMPTS
    ]
    assert answers(engine, PROMPTS) == wanted


def test_a_batch_gives_what_each_prompt_gives_alone(engine: SartorEngine) -> None:
    assert answers(engine, PROMPTS, adapter="calls") == [
        answers(engine, [prompt], adapter="calls")[0] for prompt in PROMPTS
    ]


def test_a_common_prefix_changes_nothing(engine: SartorEngine) -> None:
    prefix = list(range(300, 340))
    prompts = [prefix + prompt for prompt in PROMPTS]
    assert answers(engine, prompts) == [answers(engine, [prompt])[0] for prompt in prompts]
    same = [[*prefix, 5], [*prefix, 5]]
    assert answers(engine, same) == [answers(engine, [same[0]])[0]] * 2


def test_adapters_answer_by_name_and_leave_no_trace(engine: SartorEngine) -> None:
    base = answers(engine, PROMPTS)
    one, two = (answers(engine, PROMPTS, adapter=name) for name in ("tickets-1.2", "calls"))
    assert base != one != two != base
    assert answers(engine, PROMPTS) == base
    assert engine.adapters == ("tickets-1.2", "calls")


def test_a_row_that_stops_leaves_and_the_others_go_on(engine: SartorEngine) -> None:
    free = answers(engine, PROMPTS)
    stop = free[0][2]
    told = list(engine.stream(PROMPTS, Sampling(max_new_tokens=6, stop_ids=frozenset({stop})), None))
    for row, whole in enumerate(free):
        cut = whole.index(stop) + 1 if stop in whole else len(whole)
        mine = [token for token in told if token.row == row]
        assert [token.id for token in mine] == whole[:cut]
        assert mine[-1].finish == ("stop" if stop in whole else "length")
        assert all(token.finish is None for token in mine[:-1])


def test_the_first_token_leaves_before_the_second_is_computed(
    engine: SartorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    model = engine._model
    handle = model.get_base_model().register_forward_pre_hook(lambda *_: calls.append(1))
    stream = engine.stream([PROMPTS[0]], GREEDY, None)
    assert isinstance(next(stream), Token)
    assert len(calls) == 1
    stream.close()  # type: ignore[attr-defined]
    handle.remove()


def test_sampling_is_repeatable_by_seed(engine: SartorEngine) -> None:
    def draw(seed: int, top_p: float = 1.0) -> list[list[int]]:
        return answers(engine, PROMPTS, Sampling(6, frozenset(), temperature=1.5, top_p=top_p, seed=seed))

    assert draw(1) == draw(1) != draw(2)
    assert draw(1, top_p=1e-6) == answers(engine, PROMPTS)


def test_logprobs_are_those_of_a_plain_forward(engine: SartorEngine, tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = [1, 40, 500, 6000]
    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].detach(), -1)
    wanted = sum(float(logprobs[place, token]) for place, token in enumerate(ids[1:]))
    assert engine.logprobs([ids], None) == [pytest.approx(wanted, abs=1e-4)]
    assert engine.logprobs([ids], "calls") != engine.logprobs([ids], None)
