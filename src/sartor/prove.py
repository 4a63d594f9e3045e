"""Prove: arms on the same held-out items, compared in pairs; the verdict.

`baseline` measures what the untuned model already reaches; `prove` adds the tuned arm and decides. Both are generators
of events that return a `Proof`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from importlib import resources
from typing import Any

from sartor.chat import Speech
from sartor.errors import DataError
from sartor.evaluate import Examiner
from sartor.events import Event
from sartor.generate.protocol import Engine
from sartor.metrics.load import Metric, load
from sartor.names import resolve
from sartor.plan import ProofPlan
from sartor.proof import ArmResult, Comparison, Forgetting, Item, Proof, Verdict
from sartor.stats import holm, mean_interval, minimum_detectable_effect, needed_items, paired
from sartor.types import Chat, Score, Source, Text

SIGNIFICANT = 0.05
LARGEST_FORECAST = 1_000_000  # examples; beyond this a forecast says nothing


def baseline(
    plan: ProofPlan,
    engine: Engine,
    renderer: Speech,
    *,
    train: Sequence[Chat | Text],
    dev: Sequence[Chat | Text],
    test: Sequence[Chat | Text],
) -> Generator[Event, None, tuple[Proof, list[Item]]]:
    """What the untuned arms reach on the held-out items."""
    metric = load(plan.metric.name)
    examiner = Examiner(engine, renderer, plan, metric)
    items, dev = test[: plan.items], dev[: plan.dev_items]
    longest = max((*items, *dev), key=examiner.length)
    records: list[Item] = []
    results: list[ArmResult] = []
    for arm in plan.arms:
        if resolve("arms", arm).TUNED:
            continue
        config, chosen = yield from _choose(arm, plan, examiner, renderer, engine, train, dev, longest)
        if config is None:
            continue
        answered = yield from examiner.examine(arm, config, items, adapter=None)
        records += answered
        results.append(_result(arm, answered, metric, chosen))
    if not results:
        raise DataError(
            "no untuned arm could be measured", hint="`prove.arms` must name one, such as zero_shot, that fits the data"
        )
    proof = _proof(plan, results, records, forgetting=None, num_train=len(train))
    return proof, records


def prove(
    plan: ProofPlan,
    engine: Engine,
    renderer: Speech,
    *,
    adapter: str | None,
    base_logprobs: Sequence[float] | None,
    test: Sequence[Chat | Text],
    num_train: int,
    untuned: Proof,
    untuned_items: Sequence[Item],
) -> Generator[Event, None, tuple[Proof, list[Item]]]:
    """The tuned arms on the items that the baseline answered, the comparison, and what was forgotten.

    The engine holds what was tuned: under the name `adapter`, or, `None`, as its own weights. `base_logprobs`
    are those of general text under the base, by `general_logprobs`; None for a base that does not foretell text, of
    which no forgetting can be measured.
    """
    metric = load(plan.metric.name)
    examiner = Examiner(engine, renderer, plan, metric)
    records, results = list(untuned_items), list(untuned.arms)
    for arm in plan.arms:
        module = resolve("arms", arm)
        if not module.TUNED:
            continue
        answered = yield from examiner.examine(arm, module.Config(), test[: plan.items], adapter=adapter)
        records += answered
        results.append(_result(arm, answered, metric, ""))
    forgetting = None
    if base_logprobs is not None:
        forgetting = forgotten(base_logprobs, engine, renderer, adapter=adapter, limit=plan.max_forgetting)
    return _proof(plan, results, records, forgetting=forgetting, num_train=num_train), records


def general_logprobs(engine: Engine, renderer: Speech, *, adapter: str | None) -> list[float]:
    """The log-probability (nats) of each passage of general text, which nobody trains on."""
    return engine.logprobs(_passages(renderer), adapter)


def forgotten(
    base: Sequence[float], engine: Engine, renderer: Speech, *, adapter: str | None, limit: float
) -> Forgetting:
    """Perplexity on general text before (`base`, by `general_logprobs`) and after; the interval is over passages."""
    sizes = [len(ids) - 1 for ids in _passages(renderer)]
    tuned = general_logprobs(engine, renderer, adapter=adapter)
    total = sum(sizes)
    rises = [(b - t) / size for b, t, size in zip(base, tuned, sizes, strict=True)]
    spread = mean_interval(rises, seed=0)
    rise = (sum(base) - sum(tuned)) / total
    return Forgetting(
        base=math.exp(-sum(base) / total),
        tuned=math.exp(-sum(tuned) / total),
        change=math.expm1(rise),
        low=math.expm1(min(rise, spread.low)),
        high=math.expm1(max(rise, spread.high)),
        limit=limit,
        num_tokens=total,
    )


def _passages(renderer: Speech) -> list[tuple[int, ...]]:
    text = resources.files("sartor").joinpath("resources/general.txt").read_text(encoding="utf-8")
    return [
        renderer.render(Text(source=Source(file="general.txt", line=index), text=passage.strip()))[0].ids
        for index, passage in enumerate(text.split("\n\n"), start=1)
    ]


def _choose(
    arm: str,
    plan: ProofPlan,
    examiner: Examiner,
    renderer: Speech,
    engine: Engine,
    train: Sequence[Chat | Text],
    dev: Sequence[Chat | Text],
    longest: Chat | Text,
) -> Generator[Event, None, tuple[Any, str]]:
    """The best configuration of an arm, by its mean score on dev; (None, …) when the arm has none that fits.

    What stands before an item must leave room for the longest of them and its answer.
    """

    def measure(example: Chat) -> int:
        return sum(len(part.ids) for part in renderer.render(example))

    chats = [example for example in train if isinstance(example, Chat)]
    module = resolve("arms", arm)
    limit = max(engine.context, examiner.length(longest))  # an item that is too long as it stands is so in every arm
    candidates = [
        config
        for config in module.candidates(chats, engine.context - plan.max_new_tokens, measure, plan.seed)
        if examiner.length(longest, arm, config) <= limit
    ]
    if len(candidates) <= 1 or not dev:
        return (candidates[0], module.described(candidates[0])) if candidates else (None, "")
    scores = []
    for config in candidates:
        answered = yield from examiner.examine(arm, config, dev, adapter=None)
        scores.append(sum(record.score for record in answered) / len(answered))
    best = max(range(len(candidates)), key=lambda index: scores[index])
    tried = ", ".join(
        f"{module.described(config)} {score:.1%}" for config, score in zip(candidates, scores, strict=True)
    )
    return candidates[best], f"{module.described(candidates[best])}, chosen on dev ({tried})"


def _result(arm: str, records: Sequence[Item], metric: Metric, chosen: str) -> ArmResult:
    interval = metric.reduce([Score(value=record.score) for record in records])
    return ArmResult(
        name=arm,
        score=interval.mean,
        low=interval.low,
        high=interval.high,
        n=len(records),
        prompt_tokens=sum(record.prompt_tokens for record in records),
        output_tokens=sum(record.output_tokens for record in records),
        seconds=round(sum(record.seconds for record in records), 3),
        chosen=chosen,
    )


def _proof(
    plan: ProofPlan,
    results: Sequence[ArmResult],
    records: Sequence[Item],
    *,
    forgetting: Forgetting | None,
    num_train: int,
) -> Proof:
    scores = {arm.name: [record.score for record in records if record.arm == arm.name] for arm in results}
    tuned = [arm for arm in results if resolve("arms", arm.name).TUNED]
    untuned = sorted((arm for arm in results if arm not in tuned), key=lambda arm: -arm.score)
    comparisons = _compare([(a.name, b.name) for b in tuned for a in untuned], scores, plan.seed)
    deviation = _deviation(scores, [arm.name for arm in (tuned or untuned)][-1], untuned[0].name)
    if tuned:
        verdict, sentence, items, examples = _judge(
            plan, tuned[0], untuned[0], comparisons[0], forgetting, deviation=deviation, num_train=num_train
        )
    else:
        verdict, items, examples = "untuned", None, None
        sentence = f"Untuned, {untuned[0].name} reaches {_points(untuned[0])} {plan.metric.name}."
    return Proof(
        verdict=verdict,
        sentence=sentence,
        metric=plan.metric.name,
        goal=plan.goal or None,
        arms=tuple(results),
        comparisons=tuple(comparisons),
        forgetting=forgetting,
        minimum_detectable_effect=minimum_detectable_effect(results[0].n, deviation=deviation or 0.5),
        needed_items=items,
        needed_examples=examples,
    )


def _compare(pairs: Sequence[tuple[str, str]], scores: dict[str, list[float]], seed: int) -> list[Comparison]:
    if not pairs:
        return []
    found = [paired(scores[a], scores[b], seed=seed) for a, b in pairs]
    adjusted = holm([result.p for result in found])
    return [
        Comparison(
            a=a,
            b=b,
            difference=result.difference,
            low=result.low,
            high=result.high,
            p=result.p,
            p_adjusted=p_adjusted,
            flips_up=result.flips_up,
            flips_down=result.flips_down,
            test=result.test,
        )
        for (a, b), result, p_adjusted in zip(pairs, found, adjusted, strict=True)
    ]


def _judge(
    plan: ProofPlan,
    tuned: ArmResult,
    best: ArmResult,
    against_best: Comparison,
    forgetting: Forgetting | None,
    *,
    deviation: float,
    num_train: int,
) -> tuple[Verdict, str, int | None, int | None]:
    """Verdict, sentence, items needed to decide, examples needed to reach the goal."""
    gain, significant = against_best.difference, against_best.p_adjusted < SIGNIFICANT
    found = (
        f"tuning moves {plan.metric.name} from {_points(best)} ({best.name}, the best untuned arm) to {_points(tuned)} "
        f"on {tuned.n} held-out items ({gain * 100:+.1f} points, 95 % interval {against_best.low * 100:+.1f} to "
        f"{against_best.high * 100:+.1f}, p = {against_best.p_adjusted:.2g})"
    )
    lost = "forgetting does not apply: such a base foretells no general text"
    if forgetting is not None:
        lost = f"perplexity on general text {forgetting.change:+.1%} (limit {forgetting.limit:+.0%})"
    if significant and gain < 0:
        return "regression", f"Do not ship: {found}.", None, None
    if forgetting is not None and forgetting.change > forgetting.limit:
        return "regression", f"Do not ship: the model forgets, {lost}; {found}.", None, None
    if significant and (not plan.goal or tuned.score >= plan.goal):
        return "ship", f"Ship it: {found}; {lost}.", None, None
    if significant:
        examples = _forecast(num_train, gain, plan.goal - tuned.score)
        more = f"about {examples:,} training examples" if examples else "more, and other, training examples"
        return (
            "more_data",
            f"Not yet: {found}; the goal is {plan.goal:.0%}: a rough forecast asks for {more}.",
            None,
            examples,
        )
    if gain > 0:
        # 80 % power asks for twice the items that just miss significance (2.8² / 1.96²); few that agree mislead it.
        items = max(needed_items(gain, deviation), 2 * tuned.n)
        return "more_data", f"Undecided: {found}; {items:,} held-out items would decide it.", items, None
    return "keep_prompting", f"Keep prompting: {found}; tuning is not better than {best.name}.", None, None


def _forecast(num_train: int, gain: float, missing: float) -> int | None:
    """Examples that the goal asks for, if each doubling of the data adds what the doublings so far did on average."""
    doublings = missing / (gain / math.log2(max(2, num_train)))
    forecast = num_train * 2.0 ** min(doublings, 64.0)
    return math.ceil(forecast) if forecast <= LARGEST_FORECAST else None


def _deviation(scores: dict[str, list[float]], a: str, b: str) -> float:
    """Standard deviation of the paired differences between two arms."""
    differences = [y - x for x, y in zip(scores[a], scores[b], strict=True)]
    mean = sum(differences) / len(differences)
    return math.sqrt(sum((value - mean) ** 2 for value in differences) / len(differences))


def _points(arm: ArmResult) -> str:
    return f"{arm.score:.1%}"
