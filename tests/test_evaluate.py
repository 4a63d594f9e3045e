"""Evaluation: items in any order, answers in the order of the items, and one way to score them all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sartor.backends.fake import FakeBackend
from sartor.backends.ranks import Place, share
from sartor.chat import Rendered, Renderer
from sartor.data.pack import pack
from sartor.errors import RecipeError
from sartor.evaluate import Examiner, _target, dev_loss
from sartor.events import Answered
from sartor.metrics.load import load
from sartor.names import resolve
from sartor.plan import Choice
from sartor.types import Chat, Message, Source, Text, ToolCall

from .engines import FakeEngine, Script, play, renderer_of
from .plans import chat, plan, segments


@pytest.fixture
def renderer(smollm2_folder: Path) -> Renderer:
    return renderer_of(smollm2_folder)


def examine(
    engine: FakeEngine,
    renderer: Renderer,
    items: list[Any],
    *,
    metric: str = "exact",
    arm: str = "zero_shot",
    config: Any = None,
    adapter: str | None = None,
    **changes: Any,
) -> tuple[list[Any], list[Any]]:
    decided = plan().proof.model_copy(update={"metric": Choice(name=metric), **changes})
    examiner = Examiner(engine, renderer, decided, load(metric))
    module = resolve("arms", arm)
    return play(examiner.examine(arm, config or module.Config(), items, adapter=adapter))


def question(prompt: str) -> str:
    """What the user asked last."""
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


ECHO: Script = lambda prompt, adapter: question(prompt).rpartition(" ")[2]  # noqa: E731


def test_all_items_are_asked_at_once_and_keep_their_order(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    items = [chat("word " * (17 * line % 11) + f"is {line}", str(line), line=line) for line in range(1, 12)]
    engine = FakeEngine(renderer, smollm2_tokenizer, ECHO)
    events, records = examine(engine, renderer, items, batch_size=4)
    assert [record.item for record in records] == [item.id for item in items]
    assert [record.output for record in records] == [str(line) for line in range(1, 12)]
    assert all(record.score == 1.0 and record.detail == "" for record in records)
    assert [len(prompts) for prompts, _ in engine.batches] == [11], "the engine itself limits its rows"
    lengths = [len(smollm2_tokenizer(prompt, add_special_tokens=False).input_ids) for prompt in engine.asked]
    assert lengths == sorted(lengths)
    assert [(event.arm, event.done, event.total) for event in events if isinstance(event, Answered)] == [
        ("zero_shot", 4, 11),
        ("zero_shot", 8, 11),
        ("zero_shot", 11, 11),
    ]
    assert len(events) == 3


def test_a_record_tells_all_of_one_answer(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    item = chat("Say it: hello", "good-bye", line=7, system="Be brief.")
    engine = FakeEngine(renderer, smollm2_tokenizer, ECHO)
    _, (record,) = examine(engine, renderer, [item], adapter="mine", arm="tuned")
    assert (record.item, record.arm, record.target, record.output) == ("rows.jsonl:7", "tuned", "good-bye", "hello")
    assert (record.score, record.finish) == (0.0, "stop")
    assert record.detail == "differs at character 1: saw 'h', expected 'g'"
    assert record.input == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say it: hello"},
    )
    assert record.prompt_tokens == len(renderer.prompt(item.prompt))
    assert record.output_tokens == len(smollm2_tokenizer("hello", add_special_tokens=False).input_ids)
    assert record.seconds >= 0
    assert engine.batches[0][1] == "mine"


def test_an_answer_ends_by_its_stop_token_or_by_its_length(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    answers = {"short": "one", "long": "one two three four five six seven eight nine", "none": ""}
    engine = FakeEngine(renderer, smollm2_tokenizer, lambda prompt, adapter: answers[question(prompt)])
    items = [chat(name, "one", line=line) for line, name in enumerate(answers, start=1)]
    _, (short, long, none) = examine(engine, renderer, items, max_new_tokens=5)
    assert (short.output, short.finish, short.output_tokens) == ("one", "stop", 1)
    assert (long.output, long.finish, long.output_tokens) == ("one two three four five", "length", 5)
    assert (none.output, none.finish, none.output_tokens, none.score) == ("", "stop", 0, 0.0)


def test_few_shot_shows_its_examples_and_asks_the_item_last(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    engine = FakeEngine(renderer, smollm2_tokenizer, ECHO)
    config = resolve("arms", "few_shot").Config(shots=(chat("shot is 1", "1"), chat("shot is 2", "2", line=2)))
    item = chat("this is 3", "3", line=3)
    _, (record,) = examine(engine, renderer, [item], arm="few_shot", config=config)
    assert record.score == 1.0
    (prompt,) = engine.asked
    assert prompt.index("shot is 1") < prompt.index("shot is 2") < prompt.index("this is 3")
    assert len(record.input) == 1, "people are shown the item, not the shots"


CALLING = Chat(
    source=Source(file="rows.jsonl", line=1),
    messages=(
        Message(role="user", content="Rain in Rome?"),
        Message(role="assistant", tool_calls=(ToolCall(name="weather", arguments={"city": "Rome"}),)),
    ),
    tools=({"type": "function", "function": {"name": "weather", "description": "now", "parameters": {}}},),
)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_call_is_scored_as_the_template_writes_it(qwen3_tokenizer: Any, weight: float) -> None:
    qwen3 = Renderer(qwen3_tokenizer)
    last = CALLING.messages[-1].model_copy(update={"weight": weight})
    item = CALLING.model_copy(update={"messages": (CALLING.messages[0], last)})
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    engine = FakeEngine(qwen3, qwen3_tokenizer, lambda prompt, adapter: f"<think>\n\n</think>\n\n{written}")
    _, (record,) = examine(engine, qwen3, [item], max_new_tokens=64)
    assert record.target.endswith(written)
    assert record.score == 1.0
    assert '"name": "weather"' in engine.asked[0], "the tool is described in the prompt"


def test_likelihood_of_an_answer(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    item = chat("Why?", "Because of the rain.")
    engine = FakeEngine(renderer, smollm2_tokenizer, rates={None: -2.0})
    events, (record,) = examine(engine, renderer, [item], metric="perplexity")
    assert engine.batches == [], "nothing is generated"
    assert record.score == pytest.approx(math.exp(-2.0))
    assert record.output == record.detail == "perplexity 7.39"
    (rendered,) = renderer.render(item)
    prompt = renderer.prompt(item.prompt)
    trained = sum(weight != 0 for weight in rendered.weights)
    whole = rendered.ids[: len(prompt) + trained]
    assert [ids for ids, _ in engine.weighed] == [whole, prompt]
    assert whole[-1] in renderer.stop_ids, "the line break after the stop token is never generated, so it is not scored"
    assert (record.prompt_tokens, record.output_tokens) == (len(prompt), trained)
    assert len(events) == 1


def test_likelihood_counts_the_target_alone(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    """An earlier answer that is trained too, shots before the item, a target with weight 0: the same tokens count."""
    plain = chat("Why?", "Because.")
    engine = FakeEngine(renderer, smollm2_tokenizer)
    _, (alone,) = examine(engine, renderer, [plain], metric="perplexity")
    earlier = (Message(role="user", content="Hm?"), Message(role="assistant", content="Yes, a longer answer."))
    unweighted = plain.messages[-1].model_copy(update={"weight": 0.0})
    for turns in ((*earlier, *plain.messages), (*earlier, plain.messages[0], unweighted)):
        _, (record,) = examine(engine, renderer, [plain.model_copy(update={"messages": turns})], metric="perplexity")
        assert record.output_tokens == alone.output_tokens
    config = resolve("arms", "few_shot").Config(shots=(chat("a shot", "its answer", line=9),))
    _, (shown,) = examine(engine, renderer, [plain], metric="perplexity", arm="few_shot", config=config)
    assert shown.output_tokens == alone.output_tokens
    assert shown.prompt_tokens > alone.prompt_tokens


def test_likelihood_where_the_history_differs_from_the_prompt(qwen3_tokenizer: Any) -> None:
    """Without thinking, the prompt of Qwen3 promises no thoughts; the target has some. Its own prefix is weighed."""
    qwen3 = Renderer(qwen3_tokenizer, template_kwargs=(("enable_thinking", False),))
    turns = (Message(role="user", content="One"), Message(role="assistant", content="1", reasoning="hm"))
    item = Chat(source=Source(file="rows.jsonl", line=1), messages=turns)
    (rendered,) = qwen3.render(item)
    assert not rendered.exact
    engine = FakeEngine(qwen3, qwen3_tokenizer)
    examine(engine, qwen3, [item], metric="perplexity")
    whole, before = (ids for ids, _ in engine.weighed)
    assert whole[: len(before)] == before
    assert len(whole) - len(before) == sum(weight != 0 for weight in rendered.weights)


def test_likelihood_of_running_text(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    items = [Text(source=Source(file="book.txt", line=line), text="It rains. " * line) for line in (3, 1, 2)]
    engine = FakeEngine(renderer, smollm2_tokenizer, rates={None: -0.5, "mine": -0.25})
    _, before = examine(engine, renderer, items, metric="perplexity")
    _, after = examine(engine, renderer, items, metric="perplexity", arm="tuned", adapter="mine")
    assert [record.item for record in before] == ["book.txt:3", "book.txt:1", "book.txt:2"]
    assert all(record.score == pytest.approx(math.exp(-0.5)) for record in before)
    assert all(record.score == pytest.approx(math.exp(-0.25)) for record in after)
    assert [record.target for record in before] == [item.text for item in items]
    assert {(record.input, record.prompt_tokens) for record in before} == {((), 0)}


def test_likelihoods_are_told_batch_by_batch(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    items = [Text(source=Source(file="book.txt", line=line), text="It rains. " * line) for line in range(1, 6)]
    engine = FakeEngine(renderer, smollm2_tokenizer)
    events, records = examine(engine, renderer, items, metric="perplexity", batch_size=2)
    assert [(event.done, event.total) for event in events] == [(2, 5), (4, 5), (5, 5)]
    assert [record.item for record in records] == [item.id for item in items]


def test_where_the_target_is_all_nothing_empty_is_weighed(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    """Nothing predicts the first token, so it is not scored; the fake refuses empty sequences."""
    item = Text(source=Source(file="book.txt", line=1), text="It rains.")
    engine = FakeEngine(renderer, smollm2_tokenizer, rates={None: -0.5})
    _, (record,) = examine(engine, renderer, [item], metric="perplexity")
    whole = renderer.render(item)[0].ids
    assert [ids for ids, _ in engine.weighed] == [whole]
    assert record.score == pytest.approx(math.exp(-0.5))
    assert record.output_tokens == len(whole) - 1
    assert _target(Rendered((5, 6, 7), (1.0, 1.0, 0.0), exact=True, stop_trained=True)) == ((5, 6), 1)


def test_no_items_are_no_answers(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    assert examine(FakeEngine(renderer, smollm2_tokenizer), renderer, []) == ([], [])


def test_an_unknown_arm_is_named(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    engine = FakeEngine(renderer, smollm2_tokenizer)
    examiner = Examiner(engine, renderer, plan().proof, load("exact"))
    with pytest.raises(RecipeError, match="unknown arm 'zero_shots'") as caught:
        play(examiner.examine("zero_shots", None, [chat("a", "b")], adapter=None))
    assert "did you mean 'zero_shot'" in caught.value.hint


def test_the_dev_loss_is_a_mean_over_tokens_however_they_are_packed() -> None:
    backend, objective = FakeBackend(plan()), resolve("objectives", "sft")
    rows = [part for row in segments(7) for part in row]
    found = {
        dev_loss(backend, objective, objective.Config(), pack(rows, micro_tokens=size)) for size in (1, 16, 10_000)
    }
    assert {count for _, count in found} == {sum(sum(weight != 0 for weight in part.weights) for part in rows)}
    losses = [loss for loss, _ in found]
    assert losses == pytest.approx([losses[0]] * len(losses))
    assert 3 < losses[0] < 6, "about ln 64 before any training"


def test_the_dev_loss_of_ranks_is_that_of_one() -> None:
    """What each of them sums is summed over all, so that each has the same mean."""
    objective = resolve("objectives", "sft")
    batches = pack([part for row in segments(7) for part in row], micro_tokens=16)
    wanted, num_supervised = dev_loss(FakeBackend(plan()), objective, objective.Config(), batches)
    summed: dict[int, list[float]] = {0: [], 1: []}

    class Rank(FakeBackend):
        rank = 0

        def sum(self, value: float) -> float:
            summed[self.rank].append(value)
            return 1.0

    for rank in (0, 1):
        backend = Rank(plan())
        backend.rank = rank
        dev_loss(backend, objective, objective.Config(), share(batches, Place(rank, 2)))
    weight, loss, count = (own + other for own, other in zip(*summed.values(), strict=True))
    assert loss / weight == pytest.approx(wanted)
    assert count == num_supervised
