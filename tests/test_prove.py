"""The proof: each verdict is provoked, by an engine that answers right where the test wants it to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.chat import Renderer
from sartor.errors import DataError
from sartor.events import Answered
from sartor.plan import Choice, ProofPlan
from sartor.proof import Item, Proof
from sartor.prove import LARGEST_FORECAST, baseline, forgotten, general_logprobs, prove
from sartor.stats import holm, needed_items, paired
from sartor.types import Chat, Source, Text

from .engines import FakeEngine, play, renderer_of
from .plans import chat, plan

NUM_TEST, NUM_DEV = 60, 6
TRAIN = [chat(f"training {line}", f"answer {line}", line=line) for line in range(1, 25)]
DEV = [chat(f"dev {line}", f"answer {line}", line=100 + line) for line in range(NUM_DEV)]
TEST = [chat(f"test {line}", f"answer {line}", line=200 + line) for line in range(NUM_TEST)]

#: Whether the answer to an item is right: by its part, its number, the number of shots, and whether tuned.
Rule = Callable[[str, int, int, bool], bool]


@pytest.fixture
def renderer(smollm2_folder: Path) -> Renderer:
    return renderer_of(smollm2_folder)


@dataclass
class World:
    """A model that answers right by a rule, and the two verbs put to it."""

    renderer: Renderer
    tokenizer: Any
    rule: Rule
    forgets: float = 0.0  # nats a token
    engine: FakeEngine = field(init=False)

    def __post_init__(self) -> None:
        rates: dict[str | None, float] = {None: -1.0, "mine": -1.0 - self.forgets}
        self.engine = FakeEngine(self.renderer, self.tokenizer, self._answer, rates=rates)

    def _answer(self, prompt: str, adapter: str | None) -> str:
        shots = prompt.count("<|im_start|>user\n") - 1
        part, number = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0].split()
        return f"answer {number}" if self.rule(part, int(number), shots, adapter is not None) else "wrong"

    def baseline(self, *, test: Sequence[Any] = TEST, **changes: Any) -> tuple[list[Any], Proof, list[Item]]:
        decided = proof_plan(**changes)
        events, (proof, items) = play(baseline(decided, self.engine, self.renderer, train=TRAIN, dev=DEV, test=test))
        return events, proof, items

    def prove(self, *, test: Sequence[Any] = TEST, **changes: Any) -> tuple[Proof, list[Item]]:
        _, untuned, untuned_items = self.baseline(test=test, **changes)
        _, (proof, items) = play(
            prove(
                proof_plan(**changes),
                self.engine,
                self.renderer,
                adapter="mine",
                base_logprobs=general_logprobs(self.engine, self.renderer, adapter=None),
                test=test,
                num_train=len(TRAIN),
                untuned=untuned,
                untuned_items=untuned_items,
            )
        )
        return proof, items


def proof_plan(**changes: Any) -> ProofPlan:
    values = {"arms": ("zero_shot", "few_shot", "tuned"), "items": NUM_TEST, "max_forgetting": 0.15, "batch_size": 16}
    return plan().proof.model_copy(update={**values, **changes})


def first(zero_shot: int, few_shot: int, tuned: int) -> Rule:
    """The first so many items are right; eight shots are as good as three."""
    return lambda part, number, shots, is_tuned: number < (tuned if is_tuned else few_shot if shots else zero_shot)


@pytest.fixture
def world(renderer: Renderer, smollm2_tokenizer: Any) -> Callable[..., World]:
    return lambda rule, **settings: World(renderer, smollm2_tokenizer, rule, **settings)


def points(share: float) -> str:
    return f"{share * 100:+.1f}"


# ---- the verdicts ----------------------------------------------------------------------------------------------------


def test_ship(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 12, 42)).prove()
    assert proof.verdict == "ship"
    assert [(arm.name, arm.score, arm.n) for arm in proof.arms] == [
        ("zero_shot", 0.1, 60),
        ("few_shot", 0.2, 60),
        ("tuned", 0.7, 60),
    ]
    assert (proof.goal, proof.needed_items, proof.needed_examples) == (None, None, None)
    assert proof.best_untuned.name == "few_shot"


def test_ship_with_a_goal_that_is_just_met(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 12, 42)).prove(goal=0.7)
    assert (proof.verdict, proof.goal) == ("ship", 0.7)


@pytest.mark.parametrize(("few_shot", "tuned"), [(30, 30), (30, 27)])
def test_keep_prompting(world: Callable[..., World], few_shot: int, tuned: int) -> None:
    proof, _ = world(first(6, few_shot, tuned)).prove()
    assert proof.verdict == "keep_prompting"
    assert proof.sentence.startswith("Keep prompting: ")
    assert proof.sentence.endswith("tuning is not better than few_shot.")
    assert (proof.needed_items, proof.needed_examples) == (None, None)


def test_beating_the_weak_arm_alone_is_no_reason_to_ship(world: Callable[..., World]) -> None:
    proof, _ = world(first(0, 42, 42)).prove()
    by_arm = {comparison.a: comparison for comparison in proof.comparisons}
    assert by_arm["zero_shot"].p_adjusted < 1e-6
    assert by_arm["few_shot"].p_adjusted == 1.0
    assert proof.verdict == "keep_prompting"


def test_more_items_decide(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 12, 15)).prove()
    assert proof.verdict == "more_data"
    gain, share = 3 / 60, 3 / 60
    deviation = math.sqrt(share * (1 - share))
    assert proof.needed_items == needed_items(gain, deviation) > NUM_TEST
    assert proof.needed_examples is None
    assert f"{proof.needed_items:,} held-out items would decide it" in proof.sentence


@pytest.mark.parametrize("num_items", [1, 3, 5])
def test_few_items_that_all_agree_never_seem_enough(world: Callable[..., World], num_items: int) -> None:
    proof, _ = world(first(0, 0, 60)).prove(items=num_items)
    assert proof.verdict == "more_data"
    assert proof.needed_items is not None
    assert proof.needed_items >= 2 * num_items


def test_more_examples_for_the_goal(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 12, 42)).prove(goal=0.8)
    assert proof.verdict == "more_data"
    assert proof.needed_items is None
    gain_per_doubling = 0.5 / math.log2(len(TRAIN))
    assert proof.needed_examples == math.ceil(len(TRAIN) * 2 ** ((0.8 - 0.7) / gain_per_doubling))
    assert f"the goal is 80%: a rough forecast asks for about {proof.needed_examples:,} training" in proof.sentence


def test_a_forecast_beyond_reason_is_not_a_number(world: Callable[..., World]) -> None:
    proof, _ = world(first(0, 0, 8)).prove(goal=1.0)
    assert proof.verdict == "more_data"
    assert proof.needed_examples is None
    assert "more, and other, training examples" in proof.sentence
    assert str(LARGEST_FORECAST) not in proof.sentence


def test_regression_by_score(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 42, 12)).prove()
    assert proof.verdict == "regression"
    assert proof.comparisons[0].difference == pytest.approx(-0.5)
    assert proof.sentence.startswith("Do not ship: tuning moves exact from 70.0%")


def test_regression_by_forgetting(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 12, 42), forgets=0.2).prove()
    assert proof.verdict == "regression"
    assert proof.sentence.startswith("Do not ship: the model forgets, perplexity on general text +22.1% (limit +15%)")
    assert world(first(6, 12, 42), forgets=0.2).prove(max_forgetting=0.25)[0].verdict == "ship"


def test_a_baseline_is_untuned(world: Callable[..., World]) -> None:
    events, proof, items = world(first(6, 12, 42)).baseline()
    assert proof.verdict == "untuned"
    assert proof.sentence == "Untuned, few_shot reaches 20.0% exact."
    assert (proof.comparisons, proof.forgetting, proof.needed_items) == ((), None, None)
    assert {item.arm for item in items} == {"zero_shot", "few_shot"}
    assert all(isinstance(event, Answered) for event in events)
    assert proof.minimum_detectable_effect > 0


def test_without_an_untuned_arm_there_is_no_baseline(world: Callable[..., World]) -> None:
    with pytest.raises(DataError, match="no untuned arm") as caught:
        world(first(6, 12, 42)).baseline(arms=("tuned",))
    assert "zero_shot" in caught.value.hint


@settings(deadline=None, max_examples=8)
@given(counts=st.tuples(*[st.integers(0, 20)] * 3), goal=st.sampled_from([0.0, 0.5, 1.0]), forgets=st.floats(0, 0.3))
def test_any_outcome_has_a_verdict_that_its_numbers_bear_out(
    smollm2_folder: Path, smollm2_tokenizer: Any, counts: tuple[int, int, int], goal: float, forgets: float
) -> None:
    made = World(renderer_of(smollm2_folder), smollm2_tokenizer, first(*counts), forgets)
    proof, _ = made.prove(items=20, goal=goal)
    gain, p = proof.comparisons[0].difference, proof.comparisons[0].p_adjusted
    assert gain == pytest.approx((counts[2] - max(counts[:2])) / 20)
    assert proof.forgetting is not None
    forgot = proof.forgetting.change > proof.forgetting.limit
    ships = p < 0.05 and gain > 0 and counts[2] / 20 >= goal and not forgot
    assert (proof.verdict == "ship") == ships
    assert (proof.verdict == "regression") == (forgot or (p < 0.05 and gain < 0))
    assert (proof.needed_items is not None) == (proof.verdict == "more_data" and p >= 0.05)
    assert Proof.model_validate_json(proof.model_dump_json(by_alias=True)) == proof


# ---- what the verdict rests on ---------------------------------------------------------------------------------------


def test_the_sentence_has_the_numbers_of_the_fields(world: Callable[..., World]) -> None:
    proof, _ = world(first(6, 12, 42), forgets=0.05).prove()
    against, tuned = proof.comparisons[0], proof.arm("tuned")
    assert proof.forgetting is not None
    assert proof.sentence == (
        f"Ship it: tuning moves exact from {proof.arm('few_shot').score:.1%} (few_shot, the best untuned arm) to "
        f"{tuned.score:.1%} on {tuned.n} held-out items ({points(against.difference)} points, "
        f"95 % interval {points(against.low)} to {points(against.high)}, p = {against.p_adjusted:.2g}); perplexity on "
        f"general text {proof.forgetting.change:+.1%} (limit +15%)."
    )


def test_the_best_untuned_arm_comes_first_and_holm_covers_all(world: Callable[..., World]) -> None:
    rule: Rule = lambda part, number, shots, tuned: number % 10 < (8 if tuned else 4 if shots else 6)  # noqa: E731
    proof, items = world(rule).prove()
    assert [(one.a, one.b) for one in proof.comparisons] == [("zero_shot", "tuned"), ("few_shot", "tuned")]
    scores = {arm: [item.score for item in items if item.arm == arm] for arm in ("zero_shot", "few_shot", "tuned")}
    seed = proof_plan().seed
    raw = [paired(scores[arm], scores["tuned"], seed=seed) for arm in ("zero_shot", "few_shot")]
    assert [one.p for one in proof.comparisons] == [result.p for result in raw]
    assert [one.p_adjusted for one in proof.comparisons] == list(holm([result.p for result in raw]))
    assert proof.comparisons[0].p_adjusted > proof.comparisons[0].p or proof.comparisons[0].p == max(r.p for r in raw)
    assert [(one.flips_up, one.flips_down) for one in proof.comparisons] == [(12, 0), (24, 0)]
    assert {one.test for one in proof.comparisons} == {"mcnemar_exact"}
    assert proof.best_untuned.name == "zero_shot"


def test_flips_are_counted_both_ways(world: Callable[..., World]) -> None:
    rule: Rule = lambda part, number, shots, tuned: number >= 20 if tuned else number < 25  # noqa: E731
    proof, _ = world(rule).prove(arms=("zero_shot", "tuned"))
    (one,) = proof.comparisons
    assert (one.flips_up, one.flips_down) == (35, 20)
    assert one.difference == pytest.approx(15 / 60)
    assert one.p == one.p_adjusted, "one comparison needs no correction"


def test_all_arms_answer_the_same_items(world: Callable[..., World]) -> None:
    made = world(first(6, 12, 42))
    proof, items = made.prove(items=25)
    asked = {arm.name: [item.item for item in items if item.arm == arm.name] for arm in proof.arms}
    assert asked == {arm: [item.id for item in TEST[:25]] for arm in ("zero_shot", "few_shot", "tuned")}
    assert {arm.n for arm in proof.arms} == {25}
    tuned = [prompt for prompts, adapter in made.engine.batches if adapter == "mine" for prompt in prompts]
    untuned = [prompt for prompts, adapter in made.engine.batches if adapter is None for prompt in prompts]
    assert len(tuned) == 25
    assert set(tuned) <= set(untuned), "tuned is asked just as zero_shot was"


def test_totals_are_sums_over_the_items(world: Callable[..., World]) -> None:
    proof, items = world(first(6, 12, 42)).prove()
    for arm in proof.arms:
        own = [item for item in items if item.arm == arm.name]
        assert arm.prompt_tokens == sum(item.prompt_tokens for item in own)
        assert arm.output_tokens == sum(item.output_tokens for item in own)
        assert arm.score == pytest.approx(sum(item.score for item in own) / len(own))
        assert arm.low <= arm.score <= arm.high
    assert proof.arm("few_shot").prompt_tokens > proof.arm("zero_shot").prompt_tokens


# ---- the choice on dev -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("better", [3, 8])
def test_the_number_of_shots_is_chosen_on_dev_and_never_on_test(world: Callable[..., World], better: int) -> None:
    """On the test items the other number would be the better one: nobody may notice."""
    rule: Rule = lambda part, number, shots, tuned: (shots == better) == (part == "dev")  # noqa: E731
    made = world(rule)
    _, proof, items = made.baseline()
    arm = proof.arm("few_shot")
    assert arm.chosen.startswith(f"{better} shots, chosen on dev (")
    assert f"{better} shots 100.0%" in arm.chosen
    assert f"{11 - better} shots 0.0%" in arm.chosen
    assert arm.score == 0.0
    shown = [prompt for prompt in made.engine.asked if prompt.count("<|im_start|>user\n") > 1]
    parts = [prompt.rpartition("<|im_start|>user\n")[2].split()[0] for prompt in shown]
    assert parts == ["dev"] * 2 * NUM_DEV_ASKED + ["test"] * NUM_TEST, "the choice is made before any test item"
    assert {item.item for item in items} == {item.id for item in TEST}, "dev answers are no part of the proof"


NUM_DEV_ASKED = min(NUM_DEV, plan().proof.dev_items)


def test_shots_are_training_examples(world: Callable[..., World]) -> None:
    made = world(first(6, 12, 42))
    made.baseline()
    for prompt in made.engine.asked:
        *shots, _ = (part.partition("<|im_end|>")[0] for part in prompt.split("<|im_start|>user\n")[1:])
        assert all(shot.startswith("training ") for shot in shots)


def test_without_room_for_shots_the_arm_is_left_out(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    made = World(renderer, smollm2_tokenizer, first(6, 12, 42))
    made.engine = FakeEngine(renderer, smollm2_tokenizer, made._answer, context=100)
    _, proof, _ = made.baseline()
    assert [arm.name for arm in proof.arms] == ["zero_shot"]


def long(part: str, digits: int) -> Chat:
    """An item of so many digits, each a token."""
    return chat(f"{part} {'0' * digits}", "answer 0", line=999)


@pytest.mark.parametrize("part", ["dev", "test"])
def test_shots_leave_room_for_the_longest_item_and_its_answer(world: Callable[..., World], part: str) -> None:
    made = world(lambda part, number, shots, tuned: shots == 8)
    dev, test = ([long(part, 500), *DEV], TEST) if part == "dev" else (DEV, [long(part, 500), *TEST])

    def baseline_in(context: int) -> tuple[Proof, int]:
        made.engine = FakeEngine(made.renderer, made.tokenizer, made._answer, context=context)
        _, (proof, _) = play(baseline(decided, made.engine, made.renderer, train=TRAIN, dev=dev, test=test))
        return proof, max(len(made.tokenizer(prompt).input_ids) for prompt in made.engine.asked)

    decided = proof_plan()
    _, with_eight = baseline_in(10_000)
    enough = with_eight + decided.max_new_tokens
    assert baseline_in(enough)[0].arm("few_shot").chosen.startswith("8 shots")
    proof, longest = baseline_in(enough - 1)
    assert proof.arm("few_shot").chosen == "3 shots"
    assert longest + decided.max_new_tokens < enough
    proof, alone = baseline_in(longest + decided.max_new_tokens - 1)
    assert [arm.name for arm in proof.arms] == ["zero_shot"]
    assert [arm.name for arm in baseline_in(alone)[0].arms] == ["zero_shot"], (
        "what is too long as it stands is asked so"
    )


def test_without_dev_items_the_fewest_shots_are_taken(world: Callable[..., World]) -> None:
    made = world(first(6, 12, 42))
    _, (proof, _) = play(baseline(proof_plan(), made.engine, made.renderer, train=TRAIN, dev=(), test=TEST))
    assert proof.arm("few_shot").score == pytest.approx(0.2)
    assert max(prompt.count("<|im_start|>user\n") for prompt in made.engine.asked) == 1 + 3


# ---- forgetting and running text -------------------------------------------------------------------------------------


def test_forgetting_by_hand(world: Callable[..., World]) -> None:
    made = world(first(0, 0, 0), forgets=0.1)
    before = general_logprobs(made.engine, made.renderer, adapter=None)
    found = forgotten(before, made.engine, made.renderer, adapter="mine", limit=0.15)
    assert (found.base, found.tuned) == (pytest.approx(math.exp(1.0)), pytest.approx(math.exp(1.1)))
    assert found.change == pytest.approx(math.expm1(0.1))
    assert found.low == pytest.approx(found.change) == pytest.approx(found.high)
    assert found.low <= found.change <= found.high
    base = [ids for ids, adapter in made.engine.weighed if adapter is None]
    tuned = [ids for ids, adapter in made.engine.weighed if adapter == "mine"]
    assert base == tuned, "the same passages, with and without"
    assert found.num_tokens == sum(len(ids) - 1 for ids in base) > 1000
    assert found.limit == 0.15


def test_a_whole_model_is_proved_against_the_base_that_it_came_from(world: Callable[..., World]) -> None:
    """Two engines without adapters: that of the base, which the baseline asked, and that of the tuned model."""
    made = world(first(6, 12, 42))
    _, untuned, items = made.baseline()
    after = FakeEngine(
        made.renderer, made.tokenizer, lambda prompt, adapter: made._answer(prompt, "tuned"), rates={None: -1.05}
    )
    _, (proof, _) = play(
        prove(
            proof_plan(),
            after,
            made.renderer,
            adapter=None,
            base_logprobs=general_logprobs(made.engine, made.renderer, adapter=None),
            test=TEST,
            num_train=len(TRAIN),
            untuned=untuned,
            untuned_items=items,
        )
    )
    assert (proof.verdict, proof.arm("tuned").score, proof.best_untuned.score) == ("ship", 0.7, 0.2)
    assert proof.forgetting is not None
    assert proof.forgetting.change == pytest.approx(math.expm1(0.05))


def test_running_text_is_proved_by_perplexity(renderer: Renderer, smollm2_tokenizer: Any) -> None:
    texts = [
        Text(source=Source(file="book.txt", line=line), text=f"Chapter {line}. It rains.") for line in range(1, 31)
    ]
    rates: dict[str | None, float] = {None: -1.0, "mine": -0.5}
    engine = FakeEngine(renderer, smollm2_tokenizer, rates=rates)
    decided = proof_plan(metric=Choice(name="perplexity"), items=30)
    _, (untuned, items) = play(baseline(decided, engine, renderer, train=texts, dev=(), test=texts))
    assert [arm.name for arm in untuned.arms] == ["zero_shot"], "shots make no sense before running text"
    _, (proof, _) = play(
        prove(
            decided,
            engine,
            renderer,
            adapter="mine",
            base_logprobs=general_logprobs(engine, renderer, adapter=None),
            test=texts,
            num_train=30,
            untuned=untuned,
            untuned_items=items,
        )
    )
    assert proof.verdict == "ship"
    assert proof.arm("zero_shot").score == pytest.approx(math.exp(-1.0))
    assert proof.arm("tuned").score == pytest.approx(math.exp(-0.5))
    assert engine.batches == []


def test_both_verbs_give_the_same_proof_again(world: Callable[..., World]) -> None:
    def timeless(proof: Proof) -> dict[str, Any]:
        arms = [arm.model_dump(exclude={"seconds"}) for arm in proof.arms]
        return {**proof.model_dump(exclude={"arms"}), "arms": arms}

    (one, _), (other, _) = world(first(6, 12, 42)).prove(), world(first(6, 12, 42)).prove()
    assert timeless(one) == timeless(other)


def test_a_chat_is_asked_without_its_answer(world: Callable[..., World]) -> None:
    made = world(first(6, 12, 42))
    secret = Chat(source=Source(file="t", line=1), messages=chat("test 0", "answer 0").messages)
    made.prove(test=[secret], items=1, arms=("zero_shot", "tuned"))
    assert len(made.engine.asked) == 2
    assert all("answer 0" not in prompt for prompt in made.engine.asked)
