"""Check: the preflight. It counts over all rows, says what would go wrong, and refuses to waste your time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from sartor.adapters import preset_of
from sartor.adapters.method import Server
from sartor.asked import DEFAULT_ARMS, arms_of, metric_of, settled
from sartor.chat import Speech, preview
from sartor.data.ledger import unreadable
from sartor.data.prepare import Prepared, Tokenised
from sartor.errors import ModelError, Where
from sartor.hub import Shape, scaled_head
from sartor.jobs import settled_method
from sartor.metrics.load import load as load_metric
from sartor.names import resolve
from sartor.planner import Reasons, course_of
from sartor.planner_padded import settled_padded
from sartor.quantisation import quantize_of
from sartor.readiness import Finding, covering, readiness
from sartor.recipe import Recipe
from sartor.texts import labels_of
from sartor.types import Chat, Form, Frozen

FEWEST_EXAMPLES = 50
SHOWN_PLACES = 5
SAMPLES = 3
FEWEST_OF_A_LABEL = 2  # examples, on average


class Problem(Frozen):
    """One thing that is, or may be, wrong. `where` names the first places; `count` counts all of them."""

    code: str
    severity: Literal["error", "warning"]
    message: str
    hint: str
    count: int = 1
    where: tuple[str, ...] = ()


class Sample(Frozen):
    """One row as the model will see it: pieces of text, and whether they are trained."""

    row: str
    pieces: tuple[tuple[str, bool], ...]


class Counts(Frozen):
    """Over all rows. `tokens` of the training split, once per example."""

    rows: int
    kept: int
    dropped: dict[str, int]
    changed: dict[str, int]
    train: int
    dev: int
    test: int
    tokens: int
    supervised_tokens: int
    truncated: int
    stop_token_untrained: int
    nothing_trained: int
    duplicates: int
    length_median: int
    length_99: int
    length_max: int


class Check(Frozen):
    """What the check found. `ok` means: no problem of severity error; `served`: by what the result can be served."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    ok: bool
    format: str
    served: str = ""
    problems: tuple[Problem, ...]
    counts: Counts
    readiness: tuple[Finding, ...] = ()
    samples: tuple[Sample, ...]

    @property
    def doubtful(self) -> bool:
        """Whether anything is less than well: a problem of any severity, or a poor grade."""
        return bool(self.problems) or any(finding.grade == "poor" for finding in self.readiness)


def refuse_unfit(recipe: Recipe, folder: Path, shape: Shape, form: Form) -> None:
    """What the plan would refuse for the recipe's own sake, refused before any row is read.

    Args:
        folder, shape: of the base. `form`: how it is used.

    Raises:
        ModelError: no loss here is right for the base's logits.
        RecipeError: arms, metric, objective, method or the length of training do not fit together or to this base.
    """
    tune = recipe.tune
    arms_of(DEFAULT_ARMS[form] if recipe.prove.arms is None else recipe.prove.arms, form)
    metric_of(recipe, (), form)
    settled(resolve("objectives", tune.objective.name), tune.objective, {}, "tune.objective")
    quantize_of(recipe, folder, shape.kind)
    if form == "decoder":
        _refuse_scaled(folder)
        settled_method(tune.adapter, shape)
    else:
        settled_padded(tune.adapter, shape)
    course_of(tune, shape, FEWEST_EXAMPLES, Reasons())


def _refuse_scaled(folder: Path) -> None:
    setting = scaled_head(folder)
    if setting:
        raise ModelError(
            f"the logits of {folder.name} are not its head's product alone (`{setting}`), and no loss here knows that",
            hint="choose a model of the Llama, Qwen, Phi, Gemma 3, Mistral or SmolLM families",
        )


def check(recipe: Recipe, prepared: Prepared, renderer: Speech, *, context: int, form: Form = "decoder") -> Check:
    """Judge prepared data against a recipe, for a base that is used in this form."""
    counts = _count(prepared)
    limit = min(recipe.data.max_length or context, context)
    problems = [
        problem
        for problem in (
            _too_long(prepared, limit, counts),
            _nothing_trained(prepared),
            _stop_untrained(prepared),
            _leak(prepared),
            _near_leak(prepared),
            _inexact(prepared),
            _unreadable(prepared),
            _few(counts),
            _few_held_out(counts),
            _duplicates(counts, prepared),
            _no_targets(recipe, prepared),
            _no_labels(prepared, form) or _unseen_labels(prepared, form),
            _not_served(recipe, form),
        )
        if problem is not None
    ]
    samples = [
        Sample(row=item.example.id, pieces=tuple(preview(renderer.render(item.example)[-1], renderer)))
        for item in [item for item in prepared.train if item.segments][:SAMPLES]
    ]
    return Check(
        ok=all(problem.severity != "error" for problem in problems),
        format=prepared.format,
        served=", ".join(_servers(recipe, form)),
        problems=tuple(problems),
        counts=counts,
        readiness=readiness(prepared, context=context),
        samples=tuple(samples),
    )


def _count(prepared: Prepared) -> Counts:
    everything = prepared.everything
    lengths = sorted(item.length for item in everything) or [0]
    return Counts(
        rows=prepared.ledger.rows_in,
        kept=prepared.ledger.kept,
        dropped=prepared.ledger.counts("dropped"),
        changed=prepared.ledger.counts("changed"),
        train=len(prepared.train),
        dev=len(prepared.dev),
        test=len(prepared.test),
        tokens=sum(item.num_tokens for item in prepared.train),
        supervised_tokens=sum(item.num_supervised for item in prepared.train),
        truncated=0,
        stop_token_untrained=sum(not item.stop_trained for item in everything),
        nothing_trained=sum(item.num_supervised == 0 for item in everything),
        duplicates=len(prepared.train) - len({item.example.digest for item in prepared.train}),
        length_median=lengths[len(lengths) // 2],
        length_99=covering(lengths),
        length_max=lengths[-1],
    )


def _too_long(prepared: Prepared, limit: int, counts: Counts) -> Problem | None:
    if not prepared.too_long:
        return None
    return Problem(
        code="too_long",
        severity="error",
        message=f"{len(prepared.too_long)} examples are longer than {limit} tokens; nothing is ever cut",
        hint=f"{counts.length_99} tokens cover 99 % (the longest has {counts.length_max}): shorten them, set "
        "`data.max_length`, choose a model with a longer context, or drop them with `data.too_long: drop`",
        count=len(prepared.too_long),
        where=_places(prepared.too_long),
    )


def _nothing_trained(prepared: Prepared) -> Problem | None:
    rows = [item for item in prepared.everything if item.num_supervised == 0]
    return _rows_problem(
        rows,
        code="nothing_trained",
        message="examples have no trained token",
        hint="each needs an assistant turn with text and a weight that is not 0",
    )


def _stop_untrained(prepared: Prepared) -> Problem | None:
    rows = [item for item in prepared.everything if not item.stop_trained]
    return _rows_problem(
        rows,
        code="stop_token_untrained",
        message="examples end without a trained stop token: the tuned model would not learn to stop",
        hint="the chat template does not close the assistant's turn; choose an instruct model whose template does",
    )


def _leak(prepared: Prepared) -> Problem | None:
    if not prepared.leaks:
        return None
    return Problem(
        code="leak",
        severity="error",
        message=f"{len(prepared.leaks)} held-out items ask the same as a training example: their proof is worthless",
        hint="remove them from one of the two files",
        count=len(prepared.leaks),
        where=tuple(f"{held_out} = {train}" for held_out, train in prepared.leaks[:SHOWN_PLACES]),
    )


def _near_leak(prepared: Prepared) -> Problem | None:
    equal = {held_out for held_out, _ in prepared.leaks}
    pairs = [pair for pair in prepared.near_leaks if pair[0] not in equal]
    if not pairs:
        return None
    return Problem(
        code="near_leak",
        severity="warning",
        message=f"{len(pairs)} held-out items ask nearly the same as a training example: their proof is worth less",
        hint="`data.clean: [contamination]` takes these out of the training split",
        count=len(pairs),
        where=tuple(f"{held_out} ≈ {train}" for held_out, train in pairs[:SHOWN_PLACES]),
    )


def _inexact(prepared: Prepared) -> Problem | None:
    rows = [item for item in prepared.everything if not item.exact]
    return _rows_problem(
        rows,
        code="prompt_differs",
        severity="warning",
        message="examples are rendered otherwise than the prompt that the served model will see",
        hint="the template writes something into the prompt that it leaves out of the history (often <think>)",
    )


def _unreadable(prepared: Prepared) -> Problem | None:
    entries = unreadable(prepared.ledger.entries) + tuple(
        entry for entry in prepared.ledger.entries if entry.reason == "template"
    )
    if not entries:
        return None
    return Problem(
        code="unreadable",
        severity="warning",
        message=f"{len(entries)} rows could not be used and were dropped; each is in data/ledger.jsonl",
        hint="correct them: " + "; ".join(entry.detail for entry in entries[:2]),
        count=len(entries),
        where=tuple(str(Where(entry.file, entry.line, entry.field)) for entry in entries[:SHOWN_PLACES]),
    )


def _few(counts: Counts) -> Problem | None:
    if counts.train >= FEWEST_EXAMPLES:
        return None
    return Problem(
        code="few_examples",
        severity="warning",
        message=f"{counts.train} training examples are few",
        hint="500 to 1,000 often suffice for one task; with fewer, few-shot prompting is hard to beat",
        count=counts.train,
    )


def _few_held_out(counts: Counts) -> Problem | None:
    if counts.test >= FEWEST_EXAMPLES:
        return None
    return Problem(
        code="few_test_items",
        severity="warning",
        message=f"{counts.test} held-out items show only very large differences",
        hint="bring more examples, or a test file of your own (`data.test`)",
        count=counts.test,
    )


def _duplicates(counts: Counts, prepared: Prepared) -> Problem | None:
    if not counts.duplicates:
        return None
    seen: set[str] = set()
    repeated = []
    for item in prepared.train:
        if item.example.digest in seen:
            repeated.append(item)
        seen.add(item.example.digest)
    return Problem(
        code="duplicates",
        severity="warning",
        message=f"{counts.duplicates} training examples stand there more than once; each counts as often as it stands",
        hint="remove them if they are not meant",
        count=counts.duplicates,
        where=_places(repeated),
    )


def _no_targets(recipe: Recipe, prepared: Prepared) -> Problem | None:
    if load_metric(recipe.task.metric.name).reads == "likelihood":
        return None
    texts = [item for item in prepared.test if not isinstance(item.example, Chat)]
    return _rows_problem(
        texts,
        code="no_target",
        message=f"held-out items are running text: the metric {recipe.task.metric.name!r} needs questions and answers",
        hint="set `task.metric: perplexity`, or bring a test file with prompts and answers as `data.test`",
    )


def _no_labels(prepared: Prepared, form: Form) -> Problem | None:
    """An encoder chooses among labels: without them there is nothing to choose."""
    names = labels_of(item.example for item in prepared.train)
    if form != "classifier" or (len(names) > 1 and len(names) <= len(prepared.train) / FEWEST_OF_A_LABEL):
        return None
    return Problem(
        code="no_labels",
        severity="error",
        message=f"{len(prepared.train)} training examples have {len(names)} different answers: these are no labels",
        hint="an encoder chooses among two or more labels, each with some examples; for texts that belong together set "
        "`tune.objective: contrastive`, and for free answers choose a decoder",
    )


def _unseen_labels(prepared: Prepared, form: Form) -> Problem | None:
    names = set(labels_of(item.example for item in prepared.train))
    held_out = [*prepared.dev, *prepared.test] if form == "classifier" else []
    return _rows_problem(
        [item for item in held_out if not labels_of([item.example]) or labels_of([item.example])[0] not in names],
        code="unseen_label",
        severity="warning",
        message="held-out items have a label that no training example has: they count as wrong",
        hint="bring examples of these labels",
    )


def _rows_problem(
    rows: Sequence[Tokenised], *, code: str, message: str, hint: str, severity: Literal["error", "warning"] = "error"
) -> Problem | None:
    if not rows:
        return None
    return Problem(
        code=code, severity=severity, message=f"{len(rows)} {message}", hint=hint, count=len(rows), where=_places(rows)
    )


def _servers(recipe: Recipe, form: Form) -> tuple[Server, ...]:
    """Who can answer with what the method makes; beside decoders only our own engine does."""
    return preset_of(recipe.tune.adapter.name).served_by if form == "decoder" else _AS_IT_IS["sartor"]


def _not_served(recipe: Recipe, form: Form) -> Problem | None:
    """Whether the engine that the recipe names can serve what the method makes, and by which detour."""
    method, engine = recipe.tune.adapter.name, recipe.serve.engine or "sartor"
    servers = _servers(recipe, form)
    if any(server in servers for server in _AS_IT_IS[engine]):
        return None
    detour = next((words for server, words in _DETOURS if server in servers), "")
    return Problem(
        code="served_after_conversion" if detour else "not_served",
        severity="warning" if detour else "error",
        message=f"{method} is not served by {engine} as it is; by: {', '.join(servers)}",
        hint=detour or "choose a method that it serves (`sartor methods`), or leave `serve.engine` out",
    )


#: What serves an adapter as it is, by the recipe's name for the engine.
_AS_IT_IS: dict[str, tuple[Server, ...]] = {
    "sartor": ("Sartor's engine",),
    "vllm": ("vLLM as is",),
    "llamacpp": ("llama.cpp",),
}
#: What other servers need first.
_DETOURS: tuple[tuple[Server, str], ...] = (
    ("vLLM after conversion", "`sartor convert --to lora` after the run: it says what that costs"),
    ("vLLM after merge", "`sartor convert --to model` after the run: merged into the base, served alone"),
)


def _places(rows: Iterable[Tokenised]) -> tuple[str, ...]:
    return tuple(item.example.id for item in list(rows)[:SHOWN_PLACES])
