"""Nouns as tables for people: a check, a plan, a proof, the models, the runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from sartor.report.words import visible

if TYPE_CHECKING:
    from sartor.catalogue import Card
    from sartor.check import Check, Sample
    from sartor.methods import Method
    from sartor.plan import Plan
    from sartor.proof import Item, Proof
    from sartor.readiness import Finding
    from sartor.store import Run

_GRADES = {"good": "green", "fair": "yellow", "poor": "red", "unknown": "dim"}


def show_check(found: Check) -> RenderableType:
    """Counts, problems with their places, and a few rows with what is trained in colour."""
    counts = found.counts
    head = Text(
        f"{counts.rows:,} rows of format {found.format}: {counts.kept:,} kept, {sum(counts.dropped.values()):,} dropped"
        f"; {counts.train:,} train, {counts.dev:,} dev, {counts.test:,} test\n"
        f"{counts.tokens:,} training tokens, {counts.supervised_tokens:,} of them trained; "
        f"lengths: median {counts.length_median}, 99 % within {counts.length_99}, longest {counts.length_max}"
    )
    lines: list[RenderableType] = [head]
    for reason, count in counts.dropped.items():
        lines.append(Text(f"  dropped: {count:,} {reason}", style="dim"))
    for problem in found.problems:
        colour = "red" if problem.severity == "error" else "yellow"
        text = Text.assemble((problem.severity, colour), visible(f" {problem.message}\n  → {problem.hint}"))
        for place in problem.where:
            text.append(visible(f"\n    {place}"), style="dim")
        lines.append(text)
    lines += [_finding(finding) for finding in found.readiness]
    lines += [_sample(sample) for sample in found.samples]
    lines.append(Text("trained tokens are underlined", style="dim"))
    if found.served:
        lines.append(Text(f"served by: {found.served}", style="dim"))
    verdict = ("ok: ready to train", "green") if found.ok else ("not ok: correct the errors above", "red")
    lines.append(Text(*verdict))
    return Group(*lines)


def _finding(finding: Finding) -> RenderableType:
    """A question of readiness, its answer, and what to do about it."""
    text = Text.assemble(
        (f"{finding.grade:7} ", _GRADES[finding.grade]), visible(f"{finding.question} {finding.answer}")
    )
    if finding.advice:
        text.append(visible(f"\n        → {finding.advice}"))
    return text


def show_plan(plan: Plan) -> RenderableType:
    """Each decision with its reason, then the estimates."""
    table = Table("what", "value", "why", box=None, pad_edge=False)
    values = plan.model_dump(mode="json")
    for path, reason in plan.reasons.items():
        if path == "estimate":
            continue
        node: object = values
        for key in path.split("."):
            node = node[key] if isinstance(node, dict) else node
        table.add_row(path, _cell(_short(node)), _cell(reason))
    estimate = plan.estimate
    return Group(
        table,
        Text(
            f"estimate: {estimate.peak_bytes / 2**30:.2f} GiB, {minutes(estimate.seconds)}, {estimate.tokens:,} tokens "
            f"({visible(plan.reasons['estimate'])})"
        ),
    )


def show_proof(proof: Proof) -> RenderableType:
    """The arms and the sentence."""
    table = Table(
        "arm",
        Column(_cell(proof.metric)),
        "95 % interval",
        "tokens/answer",
        "s/answer",
        "chosen",
        box=None,
        pad_edge=False,
    )
    for arm in proof.arms:
        table.add_row(
            _cell(arm.name),
            f"{arm.score:.1%}",
            f"{arm.low:.1%} to {arm.high:.1%}",
            f"{arm.prompt_tokens / arm.n:.0f} + {arm.output_tokens / arm.n:.0f}",
            f"{arm.seconds / arm.n:.2f}",
            _cell(arm.chosen),
        )
    style = {"ship": "bold green", "regression": "bold red"}.get(proof.verdict, "bold yellow")
    return Group(table, Text(visible(proof.sentence), style=style))


def show_answers(items: Sequence[Item], untuned: str, tuned: str, *, most: int = 6) -> RenderableType:
    """Base against tuned, side by side: items that tuning won first, then one that it lost, if there is one."""
    by_arm = {arm: {item.item: item for item in items if item.arm == arm} for arm in (untuned, tuned)}
    pairs = [(by_arm[untuned][key], after) for key, after in by_arm[tuned].items() if key in by_arm[untuned]]
    won = [pair for pair in pairs if pair[1].score > pair[0].score]
    lost = [pair for pair in pairs if pair[1].score < pair[0].score]
    table = Table("request", "expected", Column(_cell(untuned)), Column(_cell(tuned)), show_lines=True)
    for before, after in won[: most - min(1, len(lost))] + lost[:1]:
        question = str(after.input[-1].get("content", "")) if after.input else ""  # running text has no question
        cells = (question, after.target, f"{_mark(before)} {before.output}", f"{_mark(after)} {after.output}")
        table.add_row(*(_cell(_short(cell, 220)) for cell in cells))
    return table


def show_models(cards: Sequence[Card]) -> RenderableType:
    table = Table("name", "family", "size", "licence", "context", "knowledge", "tunable on", box=None, pad_edge=False)
    for card in cards:
        size = f"{card.parameters / 1000:.1f} B" if card.parameters >= 1000 else f"{card.parameters} M"
        table.add_row(card.name, card.family, size, card.licence, f"{card.context:,}", card.cutoff, card.tunable_on)
    return table


def show_methods(methods: Sequence[Method], model: str, measured_on: str) -> RenderableType:
    """The methods on a model, then where the figures come from."""
    names = ("method", "trainable", "speed", "memory", "vLLM", "GGUF", "merges", "mixes", "paper")
    columns = [Column(name, no_wrap=name != "paper", overflow="fold") for name in names]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for method in methods:
        ways = [server.removeprefix("vLLM ") for server in method.served_by if server.startswith("vLLM")]
        table.add_row(
            method.name,
            f"{method.trainable:,}" if not method.needs else "–",
            *(f"{ratio:.2f}" if ratio else "–" for ratio in (method.speed, method.memory)),
            ways[0].removeprefix("after ").replace("conversion", "convert") if ways else "–",
            "yes" if "llama.cpp" in method.served_by else "–",
            *("yes" if yes else "–" for yes in (method.mergeable, method.mixable)),
            method.paper.removeprefix("arXiv "),
        )
    costs = f"Speed and memory in training, as multiples of LoRA's: {measured_on}. " if measured_on else ""
    return Group(
        table,
        Text(
            f"\nTrainable parameters on {model}. {costs}vLLM: as is, or what `sartor convert` does before; GGUF: "
            "llama.cpp can have it. Merges: into the base's own weights. Mixes: answers beside others in one batch of "
            "Sartor's engine, which serves all. Choose one by `tune: {adapter: NAME}`; `--json` says more."
        ),
    )


def show_runs(runs: Sequence[Run]) -> RenderableType:
    table = Table("run", "stages done", "verdict", "worker", box=None, pad_edge=False)
    for run in runs:
        worker = run.worker()
        table.add_row(
            _cell(run.id), " ".join(run.stages_done()) or "none", run.verdict(), str(worker) if worker else ""
        )
    return table


def minutes(seconds: float) -> str:
    """A duration as one says it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _sample(sample: Sample) -> Text:
    text = Text.assemble((visible(f"{sample.row}\n"), "dim"))  # dim for the row's name alone, not for its text
    for piece, trained in sample.pieces:
        text.append(visible(piece), style="bold green underline" if trained else "default")
    return text


def _cell(text: str) -> Text:
    """What users and models wrote, as it is: no markup, no emoji codes, no control characters of a terminal."""
    return Text(visible(text))


def _mark(item: Item) -> str:
    return "✓" if item.score >= 1 else "✗" if item.score <= 0 else f"{item.score:.2f}"


def _short(value: object, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"
