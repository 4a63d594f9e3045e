"""Our engine against transformers' own generation in fp32: whatever shares the batch, the answers are the same."""

from __future__ import annotations

import random
import re
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from sartor.adapters import family_of
from sartor.backends.estimate import CPU
from sartor.errors import UserError
from sartor.generate import loading
from sartor.generate import sartor as sartor_engine
from sartor.generate.peft import MAX_ROWS, twin_of
from sartor.generate.protocol import Engine, Sampling, Token
from sartor.generate.sartor import SartorEngine, open_engine
from sartor.hardware import look
from sartor.hub import shape
from sartor.ops import decode

from ..engines import answers  # noqa: TID252 - the tests are no package to import by name
from .conftest import FAMILIES

Answers = Callable[..., list[list[int]]]


def prompts_of(lengths: Sequence[int], vocab: int = 480, prefix: Sequence[int] = ()) -> list[list[int]]:
    dice = random.Random(7)
    return [[*prefix, *(dice.randrange(3, vocab) for _ in range(length))] for length in lengths]


MIXED = prompts_of([1, 5, 16, 17, 33, 40, 3])
FEW_SHOT = prompts_of([9, 2, 20, 1, 12, 6], prefix=prompts_of([70])[0])
GREEDY = Sampling(max_new_tokens=12, stop_ids=frozenset())


@pytest.fixture(scope="module")
def adapters(family_folder: Callable[[str], Path], make_adapters: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    return make_adapters(family_folder("Llama"), "tickets-1.2", "calls", "mails")


@pytest.fixture(scope="module")
def engine(family_folder: Callable[[str], Path], adapters: dict[str, Path]) -> SartorEngine:
    return open_engine(family_folder("Llama"), adapters, dtype="float32", num_threads=1)


class Forwards:
    """Counts the forwards of the model under an engine, and the tokens in each."""

    def __init__(self, engine: SartorEngine) -> None:
        self.sizes: list[int] = []
        self._handle = engine._model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, args: Any, kwargs: Any) -> None:
        self.sizes.append(kwargs["input_ids"].shape[1])

    def __enter__(self) -> list[int]:
        return self.sizes

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_plain_generate(
    family: str, family_folder: Callable[[str], Path], plain_answers: Answers
) -> None:
    folder = family_folder(family)
    engine = open_engine(folder, {}, dtype="float32", num_threads=1)
    assert answers(engine, MIXED, GREEDY) == plain_answers(folder, MIXED, 12)
    assert answers(engine, FEW_SHOT, GREEDY) == plain_answers(folder, FEW_SHOT, 12)


def test_the_plain_twin_gives_the_same(
    family_folder: Callable[[str], Path], plain_answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SARTOR_NATIVE", "0")
    from sartor.ops import native

    native.load.cache_clear()
    folder = family_folder("Gemma2")
    engine = open_engine(folder, {}, dtype="float32", num_threads=1)
    assert answers(engine, MIXED, GREEDY) == plain_answers(folder, MIXED, 12)
    assert answers(engine, FEW_SHOT, GREEDY) == plain_answers(folder, FEW_SHOT, 12)
    native.load.cache_clear()


def test_the_real_model_answers_as_plain_generate_does(
    smollm2_folder: Path, smollm2_tokenizer: Any, plain_answers: Answers
) -> None:
    shots = "".join(f"Q: What is {n} plus {n}?\nA: {2 * n}.\n" for n in range(4))
    texts = ["The capital of France is", "Once", f"{shots}Q: What is 9 plus 9?\nA:", f"{shots}Q: Who wrote Faust?\nA:"]
    prompts = [list(smollm2_tokenizer(text).input_ids) for text in texts]
    for text in ("Name three colours.", "Who wrote Faust?", "List two fruits."):  # with the same system prompt
        rendered = smollm2_tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        prompts.append(list(smollm2_tokenizer(rendered, add_special_tokens=False).input_ids))
    engine = open_engine(smollm2_folder, {}, dtype="float32")
    assert answers(engine, prompts, GREEDY) == plain_answers(smollm2_folder, prompts, 12)


@pytest.mark.parametrize("prompts", [MIXED, FEW_SHOT], ids=["mixed", "few_shot"])
def test_adapters_mixed_in_one_batch_answer_as_peft_does(
    engine: SartorEngine,
    adapters: dict[str, Path],
    family_folder: Callable[[str], Path],
    plain_answers: Answers,
    prompts: list[list[int]],
) -> None:
    base = family_folder("Llama")
    chosen = [None, "calls", "mails", "tickets-1.2", "calls", None, "mails"][: len(prompts)]
    wanted = [
        plain_answers(base, [prompt], 12, adapters[name] if name else None)[0]
        for prompt, name in zip(prompts, chosen, strict=True)
    ]
    assert answers(engine, prompts, GREEDY, adapter=chosen) == wanted
    assert answers(engine, prompts, GREEDY, adapter="calls") == plain_answers(base, prompts, 12, adapters["calls"])
    assert engine.adapters == ("tickets-1.2", "calls", "mails")


def test_one_forward_a_step_however_many_adapters(engine: SartorEngine) -> None:
    prompts = prompts_of([8] * 8)
    with Forwards(engine) as sizes:
        answers(engine, prompts, GREEDY, adapter=[None, "calls", "mails", "tickets-1.2"] * 2)
    assert sizes == [64] + [8] * 11


def test_the_first_token_leaves_before_the_second_is_computed(engine: SartorEngine) -> None:
    with Forwards(engine) as sizes:
        stream = engine.stream([MIXED[0]], GREEDY, None)
        assert isinstance(next(stream), Token)
        assert len(sizes) == 1
        stream.close()  # type: ignore[attr-defined]


def test_a_shared_prefix_is_computed_once_and_kept(engine: SartorEngine) -> None:
    prefix = prompts_of([96], vocab=400)[0][::-1]
    one, other = prompts_of([5, 9, 2], prefix=prefix), prompts_of([7, 7], prefix=prefix)
    with Forwards(engine) as sizes:
        answers(engine, one, GREEDY)
        answers(engine, other, GREEDY)
        answers(engine, other, GREEDY, adapter="calls")
    assert sizes[0] == 96 + 5 + 9 + 2  # within a forward: the first brings the prefix, the others find it
    assert sizes[12] == 7 + 7  # across calls
    assert sizes[24] == 96 + 7 + 7  # another adapter has other keys and values


def test_requests_join_and_leave_a_running_batch(engine: SartorEngine) -> None:
    alone = answers(engine, MIXED, GREEDY)
    rows: dict[int, list[int]] = {}
    first = [engine.submit(prompt, GREEDY, None) for prompt in MIXED[:3]]
    for handle in first:
        rows[handle] = []

    def step() -> None:
        for token in engine.advance():
            rows[token.row].append(token.id)

    for _ in range(4):
        step()
    engine.cancel(first[1])
    late = [engine.submit(prompt, GREEDY, None) for prompt in MIXED[3:]]
    rows.update({handle: [] for handle in late})
    gone = len(rows[first[1]])
    for _ in range(13):
        step()
    assert [rows[handle] for handle in (first[0], first[2], *late)] == [alone[0], *alone[2:]]
    assert rows[first[1]] == alone[1][:gone] and gone == 4
    assert engine.advance() == [] and engine._pool.num_used == 0
    engine.cancel(first[0])  # it has ended
    engine.cancel(10**9)  # it never was


def test_closing_a_stream_frees_its_pages(engine: SartorEngine) -> None:
    stream = engine.stream(MIXED, GREEDY, None)
    next(stream)
    assert engine._pool.num_used > 0
    stream.close()  # type: ignore[attr-defined]
    assert engine._pool.num_used == 0 and engine.advance() == []


def test_a_row_that_stops_leaves_and_the_others_go_on(engine: SartorEngine) -> None:
    free = answers(engine, MIXED, GREEDY)
    stop = free[0][2]
    told = list(engine.stream(MIXED, Sampling(max_new_tokens=12, stop_ids=frozenset({stop})), None))
    for row, whole in enumerate(free):
        cut = whole.index(stop) + 1 if stop in whole else len(whole)
        mine = [token for token in told if token.row == row]
        assert [token.id for token in mine] == whole[:cut]
        assert mine[-1].finish == ("stop" if stop in whole else "length")
        assert all(token.finish is None for token in mine[:-1])


def test_the_cache_has_room_for_one_whole_context(
    family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 GiB of the usual cache is no reason to refuse a prompt that the model itself takes."""
    folder = family_folder("Llama")
    monkeypatch.setattr(sartor_engine, "CPU", CPU.model_copy(update={"cache_bytes": 1 << 16}))
    opened = open_engine(folder, {}, dtype="float32", num_threads=1)
    assert opened.context == shape(folder).context
    monkeypatch.setattr(sartor_engine, "memory_bytes", lambda: 1 << 19)
    assert open_engine(folder, {}, dtype="float32", num_threads=1).context < shape(folder).context, "a quarter of it"


def test_a_small_cache_is_slower_and_not_wrong(family_folder: Callable[[str], Path], engine: SartorEngine) -> None:
    """Five pages for seven prompts: rows wait, and rows that came later give way and read again."""
    page = 2 * 3 * 2 * 16 * 16 * 4  # keys and values · layers · heads · head size · tokens · bytes
    small = open_engine(family_folder("Llama"), {}, dtype="float32", num_threads=1, cache_bytes=5 * page)
    assert answers(small, MIXED, GREEDY) == answers(engine, MIXED, GREEDY)
    assert small._pool.num_used == 0
    assert small.context == 80
    assert len(answers(small, prompts_of([75]), GREEDY)[0]) == 5, "as far as the cache goes"
    with pytest.raises(UserError, match="a prompt of 80 tokens leaves no room"):
        small.submit(prompts_of([80])[0], GREEDY, None)
    with pytest.raises(UserError, match="it may have 1 to 80"):
        small.logprobs(prompts_of([90]), None)
    several = prompts_of([70, 30, 40, 80])  # two of them at once, at most
    assert small.logprobs(several, None) == pytest.approx(engine.logprobs(several, None), rel=1e-5)
    small.submit(prompts_of([40])[0], GREEDY, None)
    small.advance()
    with pytest.raises(UserError, match="has room for 32 more"):
        small.logprobs(prompts_of([70]), None)


def test_a_long_prompt_is_read_in_several_steps_beside_the_others(
    family_folder: Callable[[str], Path], engine: SartorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of([20, 150, 9])
    wanted = answers(engine, prompts, GREEDY)
    chunked = open_engine(family_folder("Llama"), {}, dtype="float32", num_threads=1)
    chunked._rows._step_tokens = 32
    with Forwards(chunked) as sizes:
        assert answers(chunked, prompts, GREEDY) == wanted
    assert max(sizes) == 32


def test_sampling_depends_on_the_seed_and_on_nothing_else(engine: SartorEngine) -> None:
    def draw(seed: int, top_p: float = 1.0, prompts: Sequence[Sequence[int]] = MIXED) -> list[list[int]]:
        return answers(engine, prompts, Sampling(12, frozenset(), temperature=1.5, top_p=top_p, seed=seed))

    assert draw(1) == draw(1) != draw(2)
    assert draw(1, prompts=MIXED[2:3]) == draw(1)[2:3]
    assert draw(1, top_p=1e-6) == answers(engine, MIXED, GREEDY)


def test_logprobs_are_those_of_a_plain_forward(
    engine: SartorEngine, family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(family_folder("Llama"), dtype=torch.float32)
    sequences = [[7], *prompts_of([4, 60, 2, 130]), [9, 9]]
    wanted = []
    for ids in sequences:
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].detach(), -1)
        wanted.append(sum(float(logprobs[place, token]) for place, token in enumerate(ids[1:])))
    assert engine.logprobs(sequences, None) == pytest.approx(wanted, abs=1e-3)
    monkeypatch.setattr("sartor.generate.sartor.WEIGHED", 31)  # sequences cut at any place
    assert engine.logprobs(sequences, None) == pytest.approx(wanted, abs=1e-3)
    assert engine.logprobs([sequences[2]], "calls") != pytest.approx([wanted[2]], abs=1e-3)
    assert engine.logprobs([], None) == []
    assert engine._pool.num_used == 0


def test_what_does_not_fit_or_is_not_there_is_named(engine: SartorEngine) -> None:
    for size in (256, 400):
        with pytest.raises(UserError, match=f"a prompt of {size} tokens leaves no room"):
            engine.submit([5] * size, GREEDY, None)
    with pytest.raises(UserError, match="empty"):
        engine.submit([], GREEDY, None)
    with pytest.raises(UserError, match="no adapter 'call' is loaded") as unknown:
        engine.submit([5], GREEDY, "call")
    assert "calls" in unknown.value.hint
    with pytest.raises(UserError, match="cannot be weighed"):
        engine.logprobs([[5] * 257], None)
    with pytest.raises(UserError, match="a sequence of 0 tokens cannot be weighed"):
        engine.logprobs([[5, 6], []], None)
    with pytest.raises(ValueError, match="2 adapters for 1 prompts"):
        list(engine.stream([[5]], GREEDY, [None, None]))
    assert engine.advance() == []
    (last,) = list(engine.stream([[5] * 255], GREEDY, None))  # one place is left
    assert last.finish == "length"


def test_a_failed_step_leaves_nothing_behind(engine: SartorEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = answers(engine, MIXED, GREEDY)
    engine.submit(MIXED[0], GREEDY, None)

    def break_down(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("sartor.generate.sartor.choose", break_down)
        with pytest.raises(MemoryError):
            engine.advance()
    assert engine.advance() == []
    assert answers(engine, MIXED, GREEDY) == wanted


def test_the_processor_decides_the_dtype_unless_one_is_asked_for(
    family_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof and the server both ask for none, so both compute alike."""
    folder = family_folder("Llama")
    for has_bf16, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        here = look(folder).model_copy(update={"has_bf16": has_bf16})
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("sartor.generate.loading.look", lambda _, here=here: here)
            assert open_engine(folder, {}, num_threads=1)._dtype == wanted
            assert open_engine(folder, {}, dtype="float32", num_threads=1)._dtype == torch.float32


def test_at_most_so_many_rows_are_computed_together(family_folder: Callable[[str], Path], engine: SartorEngine) -> None:
    narrow = open_engine(family_folder("Llama"), {}, dtype="float32", num_threads=1, max_rows=2)
    with Forwards(narrow) as sizes:
        assert answers(narrow, MIXED, GREEDY) == answers(engine, MIXED, GREEDY)
    assert len(sizes) >= len(MIXED) / 2 * 11
    narrow.close()
    narrow.close()


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault: neighbours in a page of the cache are swapped."""
    right = decode.Flat.slots_T
    wrong = cached_property(lambda flat: right.func(flat) ^ 1)
    wrong.__set_name__(decode.Flat, "slots_T")
    monkeypatch.setattr(decode.Flat, "slots_T", wrong)


@pytest.mark.usefixtures("swapped")
def test_a_model_that_does_not_work_through_our_cache_is_answered_by_transformers(
    family_folder: Callable[[str], Path], plain_answers: Answers
) -> None:
    folder = family_folder("Qwen3")
    engine: Any = open_engine(folder, {}, dtype="float32", num_threads=1)
    (warning,) = engine.warnings
    assert re.search(r"through our cache its logits are [5-9]?\d*\d\d\.\d% off", warning)
    assert answers(engine, MIXED[:3], GREEDY) == plain_answers(folder, MIXED[:3], 12)


@pytest.fixture
def alone(family_folder: Callable[[str], Path], tmp_path: Path) -> dict[str, Path]:
    """An adapter that PEFT answers with."""
    from transformers import AutoModelForCausalLM

    family = family_of("lst")
    model = AutoModelForCausalLM.from_pretrained(family_folder("Llama"), dtype=torch.float32)
    family.export(family.attach(model, family.Config(**family.PRESETS["lst"].settings)), tmp_path)
    return {"beside": tmp_path}


@pytest.mark.usefixtures("swapped")
def test_the_first_model_is_let_go_of_before_another_one_is_loaded(
    family_folder: Callable[[str], Path],
    adapters: dict[str, Path],
    alone: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def noting(make: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            alive.append(sum(each() is not None for each in made))
            model = make(*args, **options)
            made.append(weakref.ref(model))
            return model

        return noted

    monkeypatch.setattr("sartor.generate.sartor.twin_of", noting(twin_of))
    monkeypatch.setattr("sartor.generate.peft.twin_of", noting(twin_of))
    loaded: Any = noting(loading.load_base)
    monkeypatch.setattr("sartor.generate.sartor.load_base", loaded)
    engine = open_engine(family_folder("Llama"), {**adapters, **alone}, dtype="float32", num_threads=1)
    assert engine.adapters == (*adapters, *alone)
    assert alive[:4] == [0, 1, 2, 0], "the base, its twin, that of the adapter alone; then none of them"


def most_together(engine: Engine, adapter: str | None) -> int:
    """How many of five requests get a token in the first step."""
    for _ in range(5):
        engine.submit([5, 6], GREEDY, adapter)
    return len(engine.advance())


def test_peft_in_our_place_computes_no_more_rows_than_allowed(
    family_folder: Callable[[str], Path], alone: dict[str, Path]
) -> None:
    engine = open_engine(family_folder("Llama"), alone, dtype="float32", num_threads=1, max_rows=2)
    assert most_together(engine, "beside") == 2


@pytest.mark.usefixtures("swapped")
def test_nor_does_transformers_where_our_cache_does_not_work(family_folder: Callable[[str], Path]) -> None:
    engine = open_engine(family_folder("Llama"), {}, dtype="float32", num_threads=1, max_rows=2)
    assert most_together(engine, None) == 2
    many = open_engine(family_folder("Llama"), {}, dtype="float32", num_threads=1)
    for _ in range(MAX_ROWS + 1):
        many.submit([5, 6], GREEDY, None)
    assert len(many.advance()) == MAX_ROWS, "each holds keys and values of its own, beyond any cache_bytes"
