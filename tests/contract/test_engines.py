"""The contract of an engine, over all of them, on one tiny model in fp32 that plain transformers runs too.

`OPENERS` says how each is opened: sartor and peft on the folder, llamacpp on the same weights as a GGUF, vllm on a
server that speaks as vLLM does and has plain transformers behind it. Another engine joins by its line there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor import names
from sartor.errors import UserError
from sartor.generate.protocol import Engine, Sampling, Token

from ..engines import answers  # noqa: TID252 - the tests are no package to import by name
from ..gguf_files import write_adapter, write_model  # noqa: TID252
from ..vllm_fake import KEY, FakeVllm  # noqa: TID252

PROMPTS = [[1, 4093, 198, 504 + n, 77, 900 + 31 * n][: 3 + n % 4] for n in range(6)]  # more than llama.cpp has slots
GREEDY = Sampling(max_new_tokens=6, stop_ids=frozenset())
CONTEXT = 512


class Plain:
    """The model in plain transformers and PEFT, one sequence at a time: what all engines are held to."""

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        self.models = {}
        for name, path in {"": None, **adapters}.items():
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            self.models[name] = (model if path is None else PeftModel.from_pretrained(model, path)).eval()

    def logits(self, ids: Sequence[int], model: str) -> torch.Tensor:
        """(T, V); a name that is no adapter's is the base's."""
        chosen = self.models[model if model in self.models else ""]
        with torch.inference_mode():
            return chosen(input_ids=torch.tensor([list(ids)])).logits[0]

    def next(self, ids: Sequence[int], model: str, asked: dict[str, Any], place: int) -> int:
        logits_V = self.logits(ids, model)[-1]
        if asked["temperature"] == 0:
            return int(logits_V.argmax())
        sorted_V, order_V = torch.softmax(logits_V / asked["temperature"], -1).sort(descending=True)
        sorted_V = sorted_V.masked_fill(sorted_V.cumsum(0) - sorted_V >= asked["top_p"], 0.0)
        chance = torch.Generator().manual_seed(asked["seed"] * 1000 + place)
        return int(order_V[torch.multinomial(sorted_V, 1, generator=chance)])

    def weigh(self, ids: Sequence[int], model: str) -> list[float]:
        logprobs_TV = torch.log_softmax(self.logits(ids, model), -1)
        return [0.0, *(float(logprobs_TV[place, token]) for place, token in enumerate(ids[1:]))]

    def answer(self, prompt: Sequence[int], adapter: str | None, length: int = GREEDY.max_new_tokens) -> list[int]:
        ids = list(prompt)
        for place in range(length):
            ids.append(self.next(ids, adapter or "", {"temperature": 0}, place))
        return ids[len(prompt) :]


@dataclass(frozen=True)
class World:
    """The same model and adapters in every form that some engine takes."""

    base: Path
    adapters: dict[str, Path]
    gguf: Path
    gguf_adapters: dict[str, Path]
    plain: Plain


@contextmanager
def open_in_this_process(world: World, name: str) -> Iterator[Engine]:
    opening = names.resolve("generate", name).open_engine
    engine = opening(world.base, world.adapters, dtype="float32", num_threads=1)
    yield engine
    engine.close()
    engine.close()


@contextmanager
def open_llamacpp(world: World) -> Iterator[Engine]:
    opening = names.resolve("generate", "llamacpp").open_engine
    engine = opening(world.gguf, world.gguf_adapters, dtype="float32", num_threads=1)
    yield engine
    engine.close()
    engine.close()


@contextmanager
def open_vllm(world: World) -> Iterator[Engine]:
    adapters = {name: str(path) for name, path in world.adapters.items()}
    with FakeVllm(world.plain, root=str(world.base), adapters=adapters, context=CONTEXT).running() as server:
        engine = names.resolve("generate", "vllm").open_engine(world.base, world.adapters, url=server.url, key=KEY)
        yield engine
        engine.close()
        engine.close()


OPENERS: dict[str, Callable[[World], AbstractContextManager[Engine]]] = {
    "sartor": partial(open_in_this_process, name="sartor"),
    "peft": partial(open_in_this_process, name="peft"),
    "llamacpp": open_llamacpp,
    "vllm": open_vllm,
}


@pytest.fixture(scope="module")
def world(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("world")
    adapters = {}
    for seed, name in enumerate(("tickets-1.2", "calls")):
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
        adapters[name] = folder / name
        model.save_pretrained(adapters[name])
    return World(
        base=tiny_folder,
        adapters=adapters,
        gguf=write_model(tiny_folder, folder / "tiny.gguf"),
        gguf_adapters={
            name: write_adapter(tiny_folder, path, folder / f"{name}.gguf") for name, path in adapters.items()
        },
        plain=Plain(tiny_folder, adapters),
    )


@pytest.fixture(scope="module", params=sorted(OPENERS))
def engine(request: pytest.FixtureRequest, world: World) -> Iterator[Engine]:
    with OPENERS[request.param](world) as opened:
        yield opened


def finished(engine: Engine, handles: set[int]) -> dict[int, list[Token]]:
    """Advance until all these requests have ended: what each of them gave."""
    given: dict[int, list[Token]] = {handle: [] for handle in handles}
    going = set(handles)
    while going:
        tokens = engine.advance()
        assert len({token.row for token in tokens}) == len(tokens), "at most one token a request"
        for token in tokens:
            assert token.row in going
            given[token.row].append(token)
            going -= {token.row} if token.finish else set()
    return given


def test_every_engine_is_held_to_the_contract() -> None:
    assert set(OPENERS) == set(names.known("generate"))


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_greedy_answers_are_those_of_plain_transformers(engine: Engine, world: World) -> None:
    assert answers(engine, PROMPTS, GREEDY) == [world.plain.answer(prompt, None) for prompt in PROMPTS]


def test_adapters_answer_by_name_and_leave_no_trace(engine: Engine, world: World) -> None:
    assert engine.adapters == ("tickets-1.2", "calls")
    assert engine.warnings == ()
    base = answers(engine, PROMPTS[:3], GREEDY)
    for name in engine.adapters:
        tuned = answers(engine, PROMPTS[:3], GREEDY, adapter=name)
        assert tuned == [world.plain.answer(prompt, name) for prompt in PROMPTS[:3]]
        assert tuned != base
    assert answers(engine, PROMPTS[:3], GREEDY) == base


def test_one_batch_holds_several_adapters(engine: Engine, world: World) -> None:
    chosen = (None, "calls", "tickets-1.2", "calls", None, "tickets-1.2")
    wanted = [world.plain.answer(prompt, name) for prompt, name in zip(PROMPTS, chosen, strict=True)]
    assert answers(engine, PROMPTS, GREEDY, adapter=chosen) == wanted


def test_a_common_prefix_changes_nothing(engine: Engine, world: World) -> None:
    prompts = [[*range(300, 340), *prompt] for prompt in PROMPTS[:3]]
    assert answers(engine, [*prompts, prompts[0]], GREEDY) == [
        world.plain.answer(prompt, None) for prompt in (*prompts, prompts[0])
    ]


def test_sampling_is_repeatable_by_seed(engine: Engine) -> None:
    def draw(seed: int, top_p: float = 1.0) -> list[list[int]]:
        return answers(engine, PROMPTS[:3], Sampling(6, frozenset(), temperature=1.5, top_p=top_p, seed=seed))

    assert draw(1) == draw(1) != draw(2)
    assert draw(1, top_p=1e-6) == answers(engine, PROMPTS[:3], GREEDY)


def test_samples_follow_the_probabilities(engine: Engine, world: World) -> None:
    """Of the two likeliest first tokens, and no others, each comes as often as it should."""
    prompt, temperature = PROMPTS[0], 3.0
    top_2 = torch.softmax(world.plain.logits(prompt, "")[-1] / temperature, -1).topk(2)
    first, second = (float(value) for value in top_2.values)
    seen = [0, 0]
    for seed in range(120):
        sampling = Sampling(1, frozenset(), temperature=temperature, top_p=first + second / 2, seed=seed)
        ((token,),) = answers(engine, [prompt], sampling)
        seen[top_2.indices.tolist().index(token)] += 1
    expected = first / (first + second)
    assert abs(seen[0] / 120 - expected) < 4 * (expected * (1 - expected) / 120) ** 0.5


# ---- ends ------------------------------------------------------------------------------------------------------------


def test_a_stop_token_ends_its_row_and_the_others_go_on(engine: Engine, world: World) -> None:
    free = [world.plain.answer(prompt, None) for prompt in PROMPTS]
    stop = free[0][2]
    told = list(engine.stream(PROMPTS, replace(GREEDY, stop_ids=frozenset({stop, 3})), None))
    for row, whole in enumerate(free):
        cut = whole.index(stop) + 1 if stop in whole else len(whole)
        mine = [token for token in told if token.row == row]
        assert [token.id for token in mine] == whole[:cut]
        assert mine[-1].finish == ("stop" if stop in whole else "length")
        assert all(token.finish is None for token in mine[:-1])


def test_an_answer_ends_where_the_context_does(engine: Engine) -> None:
    assert engine.context == CONTEXT
    tokens = list(engine.stream([[7] * (CONTEXT - 2)], Sampling(50, frozenset()), None))
    assert [token.finish for token in tokens] == [None, "length"]


# ---- requests --------------------------------------------------------------------------------------------------------


def test_requests_join_and_leave_while_others_go_on(engine: Engine, world: World) -> None:
    first = engine.submit(PROMPTS[0], replace(GREEDY, max_new_tokens=30), None)
    gone = engine.submit(PROMPTS[1], replace(GREEDY, max_new_tokens=30), "calls")
    before = [token for _ in range(2) for token in engine.advance()]
    engine.cancel(gone)
    engine.cancel(gone)
    engine.cancel(10**9)
    assert list(engine.requests) == [first]
    late = engine.submit(PROMPTS[2], GREEDY, "calls")
    assert set(engine.requests) == {first, late}
    assert len({first, gone, late}) == 3, "no handle is used twice"
    after = finished(engine, {first, late})
    whole = [token.id for token in before if token.row == first] + [token.id for token in after[first]]
    assert whole == world.plain.answer(PROMPTS[0], None, 30)
    assert [token.id for token in after[late]] == world.plain.answer(PROMPTS[2], "calls")
    assert engine.advance() == []
    assert not engine.requests


def test_a_stream_that_is_closed_leaves_nothing_behind(engine: Engine, world: World) -> None:
    stream = engine.stream(PROMPTS, replace(GREEDY, max_new_tokens=200), None)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert engine.advance() == []
    assert answers(engine, PROMPTS[:1], GREEDY) == [world.plain.answer(PROMPTS[0], None)]


def test_no_prompts_no_tokens(engine: Engine) -> None:
    assert list(engine.stream([], GREEDY, None)) == []
    assert engine.advance() == []


def test_what_cannot_be_answered_is_refused_and_the_engine_lives_on(engine: Engine, world: World) -> None:
    with pytest.raises(UserError, match=f"{CONTEXT} tokens leaves no room") as caught:
        engine.submit([7] * CONTEXT, GREEDY, None)
    assert caught.value.hint
    with pytest.raises(UserError, match="empty"):
        engine.submit([], GREEDY, None)
    with pytest.raises(UserError, match="no adapter 'cals'") as unknown:
        list(engine.stream(PROMPTS, GREEDY, "cals"))
    assert "did you mean 'calls'" in unknown.value.hint
    for sequence in ([], [7] * (CONTEXT + 1)):
        with pytest.raises(UserError) as weighed:
            engine.logprobs([PROMPTS[0], sequence], "calls")
        assert weighed.value.hint
    assert engine.advance() == []
    assert answers(engine, PROMPTS[:1], GREEDY) == [world.plain.answer(PROMPTS[0], None)]


# ---- log-probabilities -----------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_a_plain_forward(engine: Engine, world: World) -> None:
    sequences = [[1, 40, 500, 6000], [5], [1, 17097, 241, 115, 2, 7]]  # the last with halves of a character, and an end
    for name in (None, "calls"):
        wanted = [sum(world.plain.weigh(ids, name or "")) for ids in sequences]
        assert engine.logprobs(sequences, name) == pytest.approx(wanted, abs=1e-3)
    assert engine.logprobs(sequences[:1], None) != engine.logprobs(sequences[:1], "calls")
    assert engine.logprobs([], None) == []
