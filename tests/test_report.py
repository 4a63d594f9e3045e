"""The report: stands alone, hides no loss, takes model output for hostile, and is the same bytes for the same run."""

from __future__ import annotations

import itertools
import math
import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from sartor import __version__
from sartor.plan import Choice, Estimate, ModelChoice, Plan, ProofPlan
from sartor.proof import ArmResult, Comparison, Forgetting, Item, Proof
from sartor.report import charts, examples, words
from sartor.report.page import VERDICTS, render_report

VOID = {"meta", "link", "br", "hr", "img", "input"}
NUM_ITEMS = 200
SENTENCES = {
    "ship": "Ship it: tuning moves exact from 11.0% (few_shot, the best untuned arm) to 42.5% on 200 held-out items "
    "(+31.5 points, 95 % interval +24.0 to +39.0, p = 1.2e-12); perplexity on general text +3.1% (limit +15%).",
    "keep_prompting": "Keep prompting: tuning is not better than few_shot.",
    "more_data": "Undecided: 1,204 held-out items would decide it.",
    "regression": "Do not ship: the model forgets, perplexity on general text +31.0% (limit +15%).",
    "untuned": "Untuned, few_shot reaches 11.0% exact.",
}


def make_plan() -> Plan:
    return Plan(
        model=ModelChoice(
            name="smollm2-135m-instruct",
            path="/home/someone/models/smollm2",
            revision="7e27bd9f",
            digest="c0ffee" * 10 + "abcd",
            dtype="bfloat16",
            template={},
            context=8192,
        ),
        backend="torch",
        objective=Choice(name="sft"),
        adapter=Choice(name="lora", settings={"r": 16, "alpha": 32, "targets": ["q_proj", "v_proj"]}),
        family="lora",
        optimizer="adamw",
        learning_rate=1e-3,
        warmup_steps=12,
        schedule="linear",
        clip=1.0,
        weight_decay=0.0,
        epochs=2.0,
        steps=250,
        batch_size=8,
        micro_tokens=2048,
        max_length=311,
        save_every=40,
        evaluate_every=41,
        seed=0,
        num_threads=2,
        environment={},
        num_trainable=4_884_480,
        proof=ProofPlan(
            arms=("zero_shot", "few_shot", "tuned"),
            metric=Choice(name="exact"),
            goal=0.4,
            items=NUM_ITEMS,
            dev_items=40,
            max_new_tokens=72,
            batch_size=32,
            max_forgetting=0.15,
            seed=0,
        ),
        data="da7a" * 16,
        estimate=Estimate(peak_bytes=2_900_000_000, seconds=340.0, tokens=196_400),
        reasons={
            "learning_rate": "adapters on a model of 135 M parameters: the smaller the base, the higher",
            "proof.items": "200 are held out; 200 detect a difference of 10 points with 80 % power",
            "model.dtype": "this processor multiplies bf16; half the memory of fp32",
            "steps": "2 epochs of 1,000 examples, 8 a step",
            "estimate": "412 GFLOP/s measured here, of which training reaches 38%",
        },
    )


def make_items(*, tuned: bool = True, losses: int = 8) -> list[Item]:
    """Answers of three arms to function-calling requests: 71 flips up, `losses` down, 14 right both times."""
    cities = ("Lyon", "Osaka", "Quito", "Tromsø", "Cork", "Pune", "Łódź", "Perth")
    items = []
    for index in range(NUM_ITEMS):
        city, days = cities[index % len(cities)], index % 9 + 2
        target = f'weather.forecast(city="{city}", days={days}, unit="celsius")'
        wrong = f'To get the forecast for {city}, call weather.forecast with the city "{city}".\n\nFor example:\n{city}'
        near = target.replace("celsius", "C")
        signature = 'weather.forecast(city: str, days: int, unit: "celsius"|"fahrenheit")'
        request = f"{signature}\n\nWhat will the weather be like in {city} over the next {days} days, in celsius?"
        if index % 3 == 0:
            request += " I am packing for a conference and a hike in the hills after it, so rain matters to me." * 3
        before, after = index < 14 + losses, index < 14 or 14 + losses <= index < 85 + losses
        rng = random.Random(index)
        for arm, right in (("zero_shot", False), ("few_shot", before), ("tuned", after)):
            if arm == "tuned" and not tuned:
                continue
            output = target if right else near if arm == "tuned" else wrong
            items.append(
                Item(
                    item=f"calls.jsonl:{(index * 37) % 1600 + 1}",
                    arm=arm,
                    input=(
                        {"role": "system", "content": 'Write only the call, like f(a=1, b="x"). Leave out defaults.'},
                        {"role": "user", "content": request},
                    ),
                    target=target,
                    output=output,
                    score=float(right),
                    detail="" if right else "differs at character 47: saw 'C', expected 'c'",
                    finish="stop" if right else "length",
                    prompt_tokens=380 if arm == "few_shot" else 92,
                    output_tokens=28 + rng.randrange(9),
                    seconds=0.31 + rng.random() / 10,
                )
            )
    return items


def make_proof(verdict: str = "ship", **changes: Any) -> Proof:
    values: dict[str, Any] = {
        "verdict": verdict,
        "sentence": SENTENCES[verdict],
        "metric": "exact",
        "goal": 0.4,
        "arms": (
            arm("zero_shot", 0.0, 0.0, 0.018, prompt_tokens=18_400),
            arm(
                "few_shot",
                0.11,
                0.07,
                0.155,
                prompt_tokens=76_000,
                chosen="8 shots, chosen on dev (3 shots 7.5%, 8 shots 12.5%)",
            ),
            arm("tuned", 0.425, 0.36, 0.495, prompt_tokens=18_400),
        ),
        "comparisons": (
            comparison("few_shot", 0.315, 0.24, 0.39, p=1.2e-12, up=71, down=8),
            comparison("zero_shot", 0.425, 0.36, 0.495, p=3e-19, up=85, down=0),
        ),
        "forgetting": Forgetting(
            base=19.42, tuned=20.02, change=0.031, low=0.018, high=0.044, limit=0.15, num_tokens=4316
        ),
        "minimum_detectable_effect": 0.083,
        "needed_items": 1204 if verdict == "more_data" else None,
        "needed_examples": None,
    }
    if verdict == "untuned":
        values |= {"arms": values["arms"][:2], "comparisons": (), "forgetting": None}
    return Proof(**(values | changes))


def arm(name: str, score: float, low: float, high: float, *, prompt_tokens: int, chosen: str = "") -> ArmResult:
    return ArmResult(
        name=name,
        score=score,
        low=low,
        high=high,
        n=NUM_ITEMS,
        prompt_tokens=prompt_tokens,
        output_tokens=6_400,
        seconds=72.5,
        chosen=chosen,
    )


def comparison(a: str, difference: float, low: float, high: float, *, p: float, up: int, down: int) -> Comparison:
    return Comparison(
        a=a,
        b="tuned",
        difference=difference,
        low=low,
        high=high,
        p=p,
        p_adjusted=p * 2,
        flips_up=up,
        flips_down=down,
        test="mcnemar_exact",
    )


def make_events(steps: int = 250) -> list[dict[str, Any]]:
    rng = random.Random(7)
    time = "2031-02-03T04:05:06.789+00:00"
    events: list[dict[str, Any]] = [{"type": "started", "time": time, "run": "calls-1a2b3c4d", "plan": "ab", "step": 0}]
    for step in range(1, steps + 1):
        loss = 0.25 + 1.6 * math.exp(-step / (steps / 5)) + rng.gauss(0, 0.09)
        events.append({"type": "stepped", "time": time, "step": step, "loss": loss, "seconds": 1.4, "num_tokens": 780})
        if step % max(1, steps // 6) == 0:
            dev = 0.33 + 1.5 * math.exp(-step / (steps / 5))
            events.append({"type": "evaluated", "time": time, "step": step, "loss": dev, "num_supervised": 1204})
    events.append(
        {
            "type": "warned",
            "time": time,
            "code": "slow",
            "message": "the machine is shared",
            "hint": "times may be long",
        }
    )
    return events


def make_check() -> dict[str, Any]:
    return {
        "schema": 1,
        "ok": True,
        "problems": [
            {"code": "unreadable", "severity": "warning", "message": "3 rows could not be used", "hint": "correct them"}
        ],
        "counts": {
            "rows": 1310,
            "kept": 1268,
            "dropped": {"duplicate": 39, "syntax": 2, "not_an_object": 1},
            "changed": {"trailing_turn": 4},
            "train": 1000,
            "dev": 68,
            "test": 200,
            "tokens": 98_212,
            "supervised_tokens": 27_554,
            "truncated": 0,
            "length_median": 91,
            "length_max": 311,
        },
    }


def render(**changes: Any) -> str:
    values: dict[str, Any] = {
        "title": "calls-1a2b3c4d",
        "proof": make_proof(),
        "items": make_items(),
        "plan": make_plan(),
        "events": make_events(),
        "check": make_check(),
        "measured": {"seconds": 362.4, "tokens": 196_400, "peak_bytes": 2_710_000_000, "tokens_per_second": 541.9},
    }
    return render_report(**(values | changes))


class Page(HTMLParser):
    """What the tests want to know of a page: its elements, whether they are balanced, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]


def test_the_page_is_whole_and_accessible() -> None:
    html = render()
    page = Page(html)
    assert page.faults == []
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    tags = [tag for tag, _ in page.elements]
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids)) and ids
    for reference in page.attributes("aria-labelledby"):
        assert set(reference.split()) <= set(ids)
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == 4 and all(drawing["role"] == "img" for drawing in drawings)
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert {"main", "header", "footer", "section"} <= set(tags)


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render()
    page = Page(html)
    assert "://" not in html and "@import" not in html and "@font-face" not in html
    assert not {"script", "iframe", "img", "object", "base", "form"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert all(link.startswith(("#", "data:")) for name in ("href", "src") for link in page.attributes(name))
    ids = set(page.attributes("id"))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= ids
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in page.elements
    assert "/home/someone" not in html  # a report is sent around: it does not tell where its maker keeps things
    assert len(html.encode()) < 200_000


def test_the_same_run_gives_the_same_bytes() -> None:
    html = render()
    assert html.encode() == render().encode()
    assert "2031-02-03" not in html


@pytest.mark.parametrize("verdict", list(VERDICTS))
def test_every_verdict_renders(verdict: str) -> None:
    page = Page(render(proof=make_proof(verdict), items=make_items(tuned=verdict != "untuned")))
    word, sign = VERDICTS[verdict]
    assert page.faults == []
    assert SENTENCES[verdict] in page.text
    assert f"{sign} {word}" in page.text
    assert f"verdict {verdict}" in page.attributes("class")


def test_the_numbers_are_on_the_page() -> None:
    text = Page(render()).text
    for said in (
        "42.5% 36.0% to 49.5% 200 92 32 0.36 s 292",  # the tuned arm's row: 24,800 tokens for 85 right answers
        "8 shots, chosen on dev (3 shots 7.5%, 8 shots 12.5%)",
        "the base model with worked examples before the question",
        "tuned against few_shot +31.5 +24.0 to +39.0 < 0.0001 71 8 exact McNemar test",
        "from 19.42 before tuning to 20.02 after it: +3.1% (95 % interval +1.8% to +4.4%, over 4,316 tokens)",
        "✓ This is within the limit of +15.0%",
        "Rows in 1,310 Kept 1,268 Dropped 42",
        "duplicate 39 syntax 2 not an object 1",
        "trailing turn 4",
        "Of these supervised 27,554",
        "Peak memory 2.70 GiB 2.52 GiB 7% less",
        "Training time 5 min 40 s 6 min 2 s 7% more",
        "Tokens 196,400 196,400 as foretold",
        "learning_rate 0.001 adapters on a model of 135 M parameters",
        "adapter.settings r 16, alpha 32, targets q_proj, v_proj",
        "the machine is shared times may be long",
        "a true difference of 8.3 points or more",
        f"sartor {__version__}",
        "calls-1a2b3c4d",
        make_plan().digest,
    ):
        assert said in text, said


def test_losses_are_shown_first_after_the_gains() -> None:
    groups = {group.kind: group for group in examples.choose(make_items(), "few_shot", "tuned")}
    assert list(groups) == ["up", "down", "right", "short"]
    assert {kind: group.total for kind, group in groups.items()} == {"up": 71, "down": 8, "right": 14, "short": 107}
    assert {kind: len(group.pairs) for kind, group in groups.items()} == {"up": 5, "down": 3, "right": 2, "short": 2}
    assert [answer.mark for answer in groups["down"].pairs[0].answers] == ["right", "wrong"]
    text = Page(render()).text
    assert "Worse after tuning: 8" in text and "✓ right" in text and "✗ wrong" in text


def test_a_run_without_losses_says_so() -> None:
    text = Page(render(items=make_items(losses=0))).text
    assert "Worse after tuning: 0" in text and "None on these items." in text


def test_free_places_go_to_other_kinds_losses_first() -> None:
    items = [item for item in make_items() if item.arm != "zero_shot"][: 2 * 22]  # 14 right both times, 8 losses
    groups = {group.kind: len(group.pairs) for group in examples.choose(items, "few_shot", "tuned")}
    assert groups == {"up": 0, "down": 8, "right": 4, "short": 0}


def test_graded_scores_are_neither_right_nor_wrong() -> None:
    few, tuned = (item for item in make_items()[1:3])
    pairs = [few.model_copy(update={"score": 0.5}), tuned.model_copy(update={"score": 0.75})]
    groups = {group.kind: group for group in examples.choose(pairs, "few_shot", "tuned")}
    assert [answer.mark for answer in groups["up"].pairs[0].answers] == ["partly", "partly"]
    assert "≈ 75.0%" in Page(render(items=pairs)).text


HOSTILE = (
    "</pre></article><script>alert(1)</script><img src=x onerror=alert(2)>",
    "'\"><svg onload=alert(3)> {{ 7 * 7 }} {% raw %} <!-- ]]> </style>",
    "<a href='javascript:alert(4)'>\x00\x1b[31m\x07 \ud800 \u202e",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    changes = {
        "output": text,
        "target": text,
        "detail": text,
        "item": text,
        "input": ({"role": text, "content": text},),
    }
    items = [
        item.model_copy(update=changes | {"item": f"{index // 3}{text}"}) for index, item in enumerate(make_items())
    ]
    proof = make_proof().model_copy(update={"sentence": text, "metric": text})
    check = make_check()
    check["counts"]["dropped"] = {text: 42}
    check["problems"] = [{"severity": "error", "message": text, "hint": text}]
    events = [*make_events(), {"type": "warned", "message": text, "hint": text}]
    plan = make_plan().model_copy(update={"reasons": {"steps": text, "estimate": text}})
    html = render(title=text, proof=proof, items=items, plan=plan, check=check, events=events)
    page, usual = Page(html), Page(render())
    assert page.faults == []
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in usual.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "49" not in "".join(part for part in page.texts if "7 * 7" in part)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", html)
    assert html.encode()


def test_a_hostile_arm_name_stays_text_in_the_drawing() -> None:
    odd = arm("<script>&", 0.2, 0.1, 0.3, prompt_tokens=1)
    page = Page(charts.arms([odd], None, title="<b>", description="</svg>").wide)
    assert page.faults == [] and "<script>&" in page.texts
    assert not {"script", "b"} & {tag for tag, _ in page.elements}


def test_endless_answers_do_not_make_an_endless_page() -> None:
    flood = {"output": '"' * 50_000, "target": "<" * 50_000, "input": ({"role": "user", "content": "&" * 50_000},)}
    html = render(items=[item.model_copy(update=flood) for item in make_items()])
    assert len(html.encode()) < 400_000
    assert "49,000 more characters are in items.jsonl" in Page(html).text


def test_a_long_request_is_folded_and_a_short_one_is_not() -> None:
    pairs = [pair for group in examples.choose(make_items(), "few_shot", "tuned") for pair in group.pairs]
    folded = [pair for pair in pairs if pair.teaser]
    assert 0 < len(folded) < len(pairs)
    assert render().count("<details>") == len(folded) + 1  # the plan is folded too


def test_a_long_request_without_spaces_still_has_a_beginning() -> None:
    item = make_items()[0].model_copy(update={"input": ({"role": "user", "content": "天気" * 500},)})
    ((pair,),) = [group.pairs for group in examples.choose([item], item.arm, None) if group.pairs]
    assert pair.teaser == "天気" * 50 + " …"


def test_a_shared_system_turn_is_shown_once() -> None:
    assert Page(render()).text.count("Leave out defaults.") == 1
    other = ({"role": "system", "content": "Answer in verse."}, {"role": "user", "content": "Why?"})
    items = [
        item.model_copy(update={"input": other}) if item.item == "calls.jsonl:1" else item for item in make_items()
    ]
    assert examples.opening(items) is None
    alone = [item.model_copy(update={"input": other[:1]}) for item in make_items()]
    assert examples.opening(alone) is None  # the turn is the request itself


def test_only_what_was_made_is_shown() -> None:
    page = Page(render(proof=make_proof("untuned"), items=make_items(tuned=False), events=[], check={}, measured={}))
    assert page.faults == []
    for said in (
        "there is nothing to compare",
        "Not measured: there is no tuned model yet.",
        "No training step is recorded.",
        "No check is recorded.",
        "Peak memory 2.70 GiB not measured —",
        "Right without tuning: 22",
    ):
        assert said in page.text, said


def test_a_run_without_items_or_forgetting_renders() -> None:
    page = Page(render(items=[], proof=make_proof().model_copy(update={"forgetting": None, "goal": None})))
    assert page.faults == []
    assert "Better after tuning: 0" in page.text


def test_an_arm_of_a_package_that_is_gone_still_renders() -> None:
    proof = make_proof(arms=(*make_proof().arms, arm("oracle", 0.05, 0.02, 0.1, prompt_tokens=9)))
    assert "oracle 5.0% 2.0% to 10.0%" in Page(render(proof=proof)).text


def test_forgetting_beyond_its_limit_is_said() -> None:
    lost = Forgetting(base=19.0, tuned=25.0, change=0.31, low=0.25, high=0.38, limit=0.15, num_tokens=4316)
    assert "✗ This is beyond the limit of +15.0%." in Page(render(proof=make_proof("regression", forgetting=lost))).text


def test_a_long_training_stays_small_and_broken_losses_are_left_out() -> None:
    chart = charts.training(make_events(steps=50_000), title="t", description="d")
    assert chart is not None and len(chart.wide) < 40_000
    broken = [{"type": "stepped", "step": 1, "loss": float("nan")}, {"type": "stepped", "step": 2, "loss": 1.0}]
    assert charts.training(broken, title="t", description="d") is not None
    assert "mean of 125 steps" in chart.wide
    assert charts.training(broken[:1], title="t", description="d") is None


def test_smoothing_follows_a_straight_line_to_both_ends() -> None:
    line = [(step, 5.0 - 0.1 * step) for step in range(1, 41)]
    assert [loss for _, loss in charts._smoothed(line)] == pytest.approx([loss for _, loss in line])
    assert charts._smoothed([(1, 2.0)]) == [(1, 2.0)]


def test_colours_and_type_are_the_page_s_own() -> None:
    chart = charts.arms(make_proof().arms, 0.4, title="t", description="d")
    assert "var(--accent)" in chart.wide and "DejaVu" not in chart.wide
    assert not re.search(r"#[0-9a-f]{6}", chart.wide + chart.narrow)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.percent(0.425), "42.5%"),
        (words.points(-0.0312), "−3.1"),
        (words.change(0.031), "+3.1%"),
        (words.count(1234.4), "1,234"),
        (words.count(2.5), "2.5"),
        (words.count(3.0), "3"),
        (words.duration(0.314), "0.31 s"),
        (words.duration(59.7), "1 min 0 s"),
        (words.duration(7260), "2 h 1 min"),
        (words.size(3 * 2**30), "3.00 GiB"),
        (words.size(5 * 2**20), "5 MiB"),
        (words.p_value(1e-9), "< 0.0001"),
        (words.p_value(0.0042), "0.0042"),
        (words.p_value(0.314), "0.31"),
        (words.against(100, 112), "12% more"),
        (words.against(100, 88), "12% less"),
        (words.against(100, 100), "as foretold"),
        (words.against(100, 250), "2.5 times as much"),
        (words.against(0, 5), "—"),
        (words.test_in_words("new_test"), "new test"),
        (words.plain({"r": 16, "targets": ["q", "v"], "bias": False}), "r 16, targets q, v, bias no"),
        (words.plain({}), "none"),
        (words.visible("a\r\nb\x00\ud800"), "a\nb\u2400\ufffd"),
    ],
)
def test_numbers_in_words(said: str, expected: str) -> None:
    assert said == expected


def test_general_text_is_varied_and_of_even_length() -> None:
    from importlib import resources

    passages = resources.files("sartor").joinpath("resources/general.txt").read_text(encoding="utf-8").split("\n\n")
    assert len(passages) == len(set(passages)) == 28
    assert all(70 <= len(passage.split()) <= 130 for passage in passages)
