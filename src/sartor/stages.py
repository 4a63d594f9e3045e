"""The verbs on disk: each stage reads what stands in the run, does its work, and writes the next noun.

A stage whose inputs are unchanged, by content digest, is not run again; if another run of the same folder made it from
the same inputs, its files are borrowed. Each stage is a generator of events.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sartor import __version__, durable, workshop
from sartor.artifact.lineage import lineage
from sartor.artifact.package import add_speech, package
from sartor.asked import num_inserted, num_virtual
from sartor.backends.ranks import here
from sartor.chat import Speech, open_renderer
from sartor.check import Check, refuse_unfit
from sartor.check import check as judge
from sartor.data.cleaning import chosen, decided_by
from sartor.data.pack import Steps, pack
from sartor.data.prepare import Tokenised, examples_of, prepare, tokenise, write
from sartor.errors import MachineError, Refused
from sartor.events import EVENT, Entered, Event, Failed, Skipped, Warned
from sartor.generate.protocol import Engine
from sartor.hardware import Hardware, look, ran_out_of_memory, release_memory, with_gpu
from sartor.hub import Base, Shape, find, shape
from sartor.names import resolve, users_file
from sartor.plan import Plan, ProofPlan, Quantized
from sartor.planner import decide, number_format, plan_proof, room_of, with_speed
from sartor.planner_padded import decide_padded
from sartor.proof import Item, Proof
from sartor.prove import baseline, general_logprobs, prove
from sartor.quantisation import quantize_of
from sartor.recipe import Recipe
from sartor.sizing import ANSWERING, unanswerable
from sartor.store import STAGES, Run, data_digests, read_json
from sartor.texts import Texts, form_of, labels_of, open_texts
from sartor.train import train
from sartor.types import Form, digest_of
from sartor.workshop.knowing import embed_by

Events = Generator[Event, None, None]
ENGINE = "sartor"
LESS_MEMORY = (
    "end what else holds memory; or let the run need less: a shorter `data.max_length`, a lower `tune.adapter.r`, "
    "`model.quantize: nf4`. `sartor plan --explain` says what needs how much"
)
AFTER_PLAN = ("train", "prove", "package")  # before that, nothing is foretold


@dataclass
class Bench:
    """One run on the workbench: what several stages need, opened once and only when needed."""

    run: Run
    anyway: bool = False
    ranks: int = 1

    @cached_property
    def recipe(self) -> Recipe:
        """What was asked, with `data.train` naming what `data.make` makes."""
        return workshop.resolved(self.run.recipe, self.run.root)

    @cached_property
    def base(self) -> Base:
        return find(self.recipe.model)

    @cached_property
    def shape(self) -> Shape:
        return shape(self.base.folder)

    @cached_property
    def form(self) -> Form:
        return form_of(self.shape.kind, resolve("objectives", self.recipe.tune.objective.name).NEEDS)

    @cached_property
    def reader(self) -> Speech:
        """The renderer before the training split, and with it a classifier's labels, are known."""
        folder = self.base.folder
        if self.form == "decoder":
            return open_renderer(folder, template_kwargs=self.recipe.model.template.items())
        return open_texts(folder, folder, self.form)

    @cached_property
    def renderer(self) -> Speech:
        reader = self.reader
        if self.form == "classifier" and isinstance(reader, Texts):
            return reader.with_labels(labels_of(examples_of(self.run, "train")))
        return reader

    @cached_property
    def quantize(self) -> Quantized:
        """How the base's weights are held: untuned arms answer with the same ones as tuned."""
        return quantize_of(self.recipe, self.base.folder, self.shape.kind)[0]

    @cached_property
    def check(self) -> Check:
        return Check.model_validate(read_json(self.run.path("check.json")))

    @cached_property
    def plan(self) -> Plan:
        return Plan.model_validate(read_json(self.run.path("plan.json")))

    @cached_property
    def devices(self) -> int:
        """GPUs to plan for: one for each rank, or those that have trained already. Ranks on a CPU share one memory."""
        planned = read_json(self.run.path("plan.json")).get("devices", 1) if self.run.path("plan.json").is_file() else 1
        if planned > 1 and self.run.result.is_dir():
            return int(planned)
        return self.ranks if self.ranks > 1 and with_gpu(look(self.run.folder)).device == "cuda" else 1

    @cached_property
    def proof_plan(self) -> ProofPlan:
        return plan_proof(self.recipe, self.tokenised("train"), self.tokenised("test"), form=self.form)

    def tokenised(self, part: str) -> list[Tokenised]:
        return [tokenise(example, self.renderer) for example in examples_of(self.run, part)]

    @cached_property
    def data_digest(self) -> str:
        return digest_of([durable.sha256(self.run.path(f"data/{part}.jsonl")) for part in ("train", "dev", "test")])

    @contextlib.contextmanager
    def engine(
        self, proof: ProofPlan, adapters: dict[str, Path] | None = None, *, base: Path | None = None
    ) -> Iterator[Engine]:
        """An engine on a model's folder, the base's if none is named, with adapters by name; closed at the end."""
        folder, rows = base or self.base.folder, proof.batch_size
        opened: Engine
        if self.form == "decoder":
            quantize: Quantized = "none" if base else self.quantize
            _refuse_unanswerable(self.shape, quantize, with_gpu(look(self.run.folder)))
            opened = resolve("generate", ENGINE).open_engine(
                folder, adapters=adapters or {}, max_rows=rows, quantize=quantize
            )
        else:
            from sartor.generate import padded  # torch, which earlier stages do without

            opened = padded.open_engine(folder, adapters or {}, form=self.form, max_rows=rows)
        with contextlib.closing(opened) as engine:
            yield engine


def run_until(bench: Bench, last: str, *, without: tuple[str, ...] = ()) -> Events:
    """All stages up to and including `last`, leaving out those in `without` and skipping those that are done."""
    wanted = [stage for stage in list(STAGES)[: list(STAGES).index(last) + 1] if stage not in without]
    if "check" in wanted:  # before any stage is skipped: none depends on all that may be unfit
        yield from _recorded(bench.run, _fit(bench))
    for number, stage in enumerate(wanted, start=1):
        inputs = _INPUTS[stage](bench)
        if bench.run.is_done(stage, inputs):
            yield Skipped(stage=stage, reason="unchanged")
            continue
        lender = "" if stage in ("train", "package") else bench.run.borrow(stage, inputs)
        if lender:
            yield Skipped(stage=stage, reason=f"made before from the same inputs, in {lender}")
            continue
        release_memory()
        foretold = bench.plan.estimate.stages.get(stage, 0.0) if stage in AFTER_PLAN else 0.0
        yield Entered(stage=stage, number=number, of=len(wanted), seconds=foretold)
        began = time.monotonic()
        for event in _recorded(bench.run, _STAGE[stage](bench)):
            yield event
            if bench.run.stopping and stage != "train":  # the loop itself saves before it leaves
                return
        if bench.run.stopping:
            return
        bench.run.finish(stage, inputs, time.monotonic() - began)


def is_done(bench: Bench, stage: str) -> bool:
    """Whether a stage ran on what is there now."""
    return bench.run.is_done(stage, _INPUTS[stage](bench))


def follow(bench: Bench) -> None:
    """Train beside the process that records it: the same work, of which nothing is told or written."""
    with _memory_told():
        for _ in _train(bench):
            pass


def _recorded(run: Run, events: Events) -> Iterator[Event]:
    """The events of a stage, each also a line of the run's event log; a failure is logged before it goes on up."""
    try:
        with _memory_told():
            for event in events:
                durable.append(run.path("events.jsonl"), EVENT.dump_json(event).decode())
                yield event
    except Exception as error:
        failed = Failed(error=type(error).__name__, message=str(error), hint=vars(error).get("hint", ""))
        with contextlib.suppress(Exception):  # the disk may be what failed; the error itself matters more
            durable.append(run.path("events.jsonl"), EVENT.dump_json(failed).decode())
        raise


@contextlib.contextmanager
def _memory_told() -> Iterator[None]:
    """An error of ours where the memory ran out: that is no fault of the program."""
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        message, *_ = str(error).splitlines() or ["no memory is left"]
        raise MachineError(f"the memory ran out: {message}", hint=LESS_MEMORY) from error


def _fit(bench: Bench) -> Events:
    refuse_unfit(bench.recipe, bench.base.folder, bench.shape, bench.form)
    yield from ()


def _check(bench: Bench) -> Events:
    yield from workshop.made(workshop.planned(bench.run.recipe, bench.run.root), lambda: bench.run.stopping)
    if bench.run.stopping:
        return
    context = bench.shape.context - num_virtual(bench.recipe.tune.adapter)
    prepared = prepare(bench.recipe, bench.run.root, bench.reader, context=context, embed=embed_by())
    write(bench.run, prepared)
    found = judge(bench.recipe, prepared, bench.renderer, context=context, form=bench.form)
    durable.write_json(bench.run.path("check.json"), found.model_dump(mode="json", by_alias=True))
    bench.check = found
    yield from ()


def refuse_if_not_ok(found: Check) -> None:
    """Stop before anything expensive when the check found an error.

    Raises:
        Refused: naming the first error.
    """
    errors = [problem for problem in found.problems if problem.severity == "error"]
    if errors:
        raise Refused(f"the check found {len(errors)} errors; first: {errors[0].message}", hint=errors[0].hint)


def _baseline(bench: Bench) -> Events:
    refuse_if_not_ok(bench.check)
    with bench.engine(bench.proof_plan) as engine:
        yield from _slower(engine)
        proof, items = yield from baseline(
            bench.proof_plan,
            engine,
            bench.renderer,
            train=examples_of(bench.run, "train"),
            dev=examples_of(bench.run, "dev"),
            test=examples_of(bench.run, "test"),
        )
    _write_proof(bench.run, "baseline.json", "items.baseline.jsonl", proof, items)


def _refuse_unanswerable(shape: Shape, quantize: Quantized, hardware: Hardware) -> None:
    """Stop before a base is opened to answer that has no room for it, though it may be trained.

    Raises:
        MachineError: its weights alone are too much.
    """
    item_bytes = 2 if number_format(hardware)[0] == "bfloat16" else 4
    problem = unanswerable(shape, quantize, item_bytes, room_of(hardware))
    if problem:
        raise MachineError(problem, hint=ANSWERING)


def _slower(engine: Engine) -> Iterator[Event]:
    """What an engine says of the way in which it answers."""
    for message in engine.warnings:
        yield Warned(code="slow_path", message=message)


def _plan(bench: Bench) -> Events:
    refuse_if_not_ok(bench.check)
    decoder = partial(decide, devices=bench.devices)
    deciding = decoder if bench.form == "decoder" else partial(decide_padded, form=bench.form)
    plan = deciding(
        bench.recipe,
        bench.base,
        bench.shape,
        with_speed(with_gpu(look(bench.run.folder)), bench.shape),
        train=bench.tokenised("train"),
        test=bench.tokenised("test"),
        dev=bench.tokenised("dev"),
        data=bench.data_digest,
    )
    durable.write_json(bench.run.path("plan.json"), plan.model_dump(mode="json", by_alias=True))
    bench.plan = plan
    yield from ()


def _train(bench: Bench) -> Events:
    plan = bench.plan
    yield from _shrunk(bench)
    # Ranks must come out with as many micro-batches each, whatever is alike in them; padded batches share nothing.
    share = here().size == 1 and bench.form == "decoder"
    steps = Steps(
        [item.segments for item in bench.tokenised("train")],
        batch_size=plan.batch_size,
        micro_tokens=plan.micro_tokens,
        seed=plan.seed,
        share=share,
    )
    held_out = [segment for item in bench.tokenised("dev") for segment in item.segments]
    # Where the pairs of a batch are compared with each other, dev is batches of as many pairs as a step has; else they
    # are no fuller than those of training, for whose buffers the plan has room: `fullest` counts virtual tokens too.
    whole = "whole_steps" in resolve("objectives", plan.objective.name).NEEDS
    fullest = min(plan.micro_tokens, max(1, plan.estimate.fullest - num_inserted(plan.adapter)))
    dev = pack(
        held_out,
        micro_tokens=max(fullest, whole * sys.maxsize),
        max_segments=whole * plan.batch_size,
        share=share,
    )
    yield from train(plan, bench.run, steps, dev, finishing=_finishing(bench))


def _shrunk(bench: Bench) -> Iterator[Event]:
    """A plan is kept when a run goes on, in a smaller container too: that one is told before its memory runs out."""
    room = room_of(with_gpu(look(bench.run.folder))).num_bytes
    if bench.plan.estimate.peak_bytes > room:
        yield Warned(
            code="less_memory",
            message=f"training needs {bench.plan.estimate.peak_bytes / 2**30:.1f} GiB by its plan, and here "
            f"{room / 2**30:.1f} can be used",
            hint=f"remove {bench.run.path('plan.json')}: it is planned anew, and goes on from its checkpoint if only "
            "the batches' sizes differ",
        )


def _finishing(bench: Bench) -> Callable[[Path], None]:
    """What makes exported weights something that can be served: tokenizer, template, stop tokens, lineage."""
    facts = lineage(
        bench.run.id,
        bench.plan,
        recipe=bench.recipe.digest,
        renderer=bench.renderer.fingerprint,
        stop_ids=bench.renderer.stop_ids,
    )
    return lambda folder: add_speech(bench.base.folder, folder, facts)


def _prove(bench: Bench) -> Events:
    from sartor.report.page import render_report  # matplotlib: a second that only this stage needs

    untuned = Proof.model_validate(read_json(bench.run.path("baseline.json")))
    untuned_items = [Item.model_validate(line) for line in durable.read_lines(bench.run.path("items.baseline.jsonl"))]
    with _tuned(bench) as (base_logprobs, engine, adapter):
        yield from _slower(engine)
        proof, items = yield from prove(
            bench.plan.proof,
            engine,
            bench.renderer,
            adapter=adapter,
            base_logprobs=base_logprobs,
            test=examples_of(bench.run, "test"),
            num_train=bench.check.counts.train,
            untuned=untuned,
            untuned_items=untuned_items,
        )
    _write_proof(bench.run, "proof.json", "items.jsonl", proof, items)
    page = render_report(
        title=bench.run.id,
        proof=proof,
        items=items,
        plan=bench.plan,
        events=list(bench.run.events()),
        check=read_json(bench.run.path("check.json")),
        measured=measured(bench.run),
    )
    durable.atomic_write(bench.run.path("report.html"), page)


@contextlib.contextmanager
def _tuned(bench: Bench) -> Iterator[tuple[list[float] | None, Engine, str | None]]:
    """What the base makes of general text; an engine with what was tuned; and the adapter's name there, if it is one.

    A whole model is opened after the base has left the memory: only an adapter shares its engine with the base. Only a
    decoder foretells general text.
    """
    result = bench.run.result
    if bench.form != "decoder":
        adapters, base = ({bench.run.id: result}, None) if result.name == "adapter" else ({}, result)
        with bench.engine(bench.plan.proof, adapters, base=base) as engine:
            yield None, engine, next(iter(adapters), None)
        return
    if result.name == "adapter":
        with bench.engine(bench.plan.proof, {bench.run.id: result}) as engine:
            yield general_logprobs(engine, bench.renderer, adapter=None), engine, bench.run.id
        return
    with bench.engine(bench.plan.proof) as engine:
        base_logprobs = general_logprobs(engine, bench.renderer, adapter=None)
    del engine
    release_memory()
    with bench.engine(bench.plan.proof, base=result) as engine:
        yield base_logprobs, engine, None


def _package(bench: Bench) -> Events:
    proof = Proof.model_validate(read_json(bench.run.path("proof.json")))
    package(bench.run, bench.plan, proof, anyway=bench.anyway)
    yield from ()


def measured(run: Run) -> dict[str, float]:
    """What training really took, from the event log: seconds, tokens, peak memory, tokens a second."""
    stepped = [event for event in run.events() if event["type"] == "stepped"]
    seconds, tokens = sum(event["seconds"] for event in stepped), sum(event["num_tokens"] for event in stepped)
    return {
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "peak_bytes": max((event["peak_bytes"] for event in stepped), default=0),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
    }


def _write_proof(run: Run, proof_name: str, items_name: str, proof: Proof, items: list[Item]) -> None:
    durable.write_json(run.path(proof_name), proof.model_dump(mode="json", by_alias=True))
    durable.atomic_write(run.path(items_name), "".join(item.model_dump_json() + "\n" for item in items))


def _check_inputs(bench: Bench) -> str:
    recipe = bench.recipe
    data = recipe.data.train if recipe.data.make else "", data_digests(bench.run.root, bench.run.recipe)
    asked = [recipe.model, recipe.data, recipe.task, recipe.tune.seed, recipe.tune.adapter, recipe.serve]
    files = decided_by(chosen(recipe.data.clean), bench.run.root)
    return digest_of(__version__, asked, bench.form, data, files, bench.base.digest)


def _baseline_inputs(bench: Bench) -> str:
    base = (bench.base.digest, bench.quantize)
    return digest_of(
        __version__, bench.data_digest, base, bench.renderer.fingerprint, bench.proof_plan, *_own_code(bench)
    )


def _plan_inputs(bench: Bench) -> str:
    several = (bench.devices,) if bench.devices > 1 else ()
    return digest_of(__version__, bench.recipe, bench.data_digest, bench.base.digest, *several)


def _train_inputs(bench: Bench) -> str:
    return digest_of(bench.plan.digest)


def _prove_inputs(bench: Bench) -> str:
    files = [_sealed(bench.run), *(bench.run.path(name) for name in ("baseline.json", "items.baseline.jsonl"))]
    return digest_of(bench.plan.digest, [durable.sha256(file) for file in files], *_own_code(bench))


def _own_code(bench: Bench) -> Iterator[str]:
    """The digest of the file that the user's own metric stands in: what it says may change under the same name."""
    file = users_file(bench.proof_plan.metric.name)
    if file is not None:
        yield durable.sha256(file)


def _package_inputs(bench: Bench) -> str:
    return digest_of([durable.sha256(file) for file in (_sealed(bench.run), bench.run.path("proof.json"))])


def _sealed(run: Run) -> Path:
    """The manifest of what was trained."""
    return run.result / durable.MANIFEST


_STAGE: dict[str, Callable[[Bench], Events]] = {
    "check": _check,
    "baseline": _baseline,
    "plan": _plan,
    "train": _train,
    "prove": _prove,
    "package": _package,
}
_INPUTS: dict[str, Callable[[Bench], Any]] = {
    "check": _check_inputs,
    "baseline": _baseline_inputs,
    "plan": _plan_inputs,
    "train": _train_inputs,
    "prove": _prove_inputs,
    "package": _package_inputs,
}
