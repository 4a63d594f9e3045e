"""The job of a recipe: its tuning method, settled on a model's sizes, and what decides memory and time of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sartor import timing
from sartor.adapters import preset_of
from sartor.adapters.layers import top_layers
from sartor.asked import method_of, num_inserted
from sartor.backends.estimate import Job
from sartor.data.prepare import Tokenised
from sartor.hub import Shape
from sartor.plan import Choice, ProofPlan
from sartor.recipe import Named
from sartor.sizing import Way
from sartor.timing import Work


@dataclass(frozen=True, slots=True)
class Method:
    """The tuning method with all of its settings, and how many parameters it trains on a model."""

    adapter: Choice
    family: str
    num_trainable: int
    rank: int
    low_rank: int
    full: bool
    depth: int
    reads: int
    dropout: bool
    virtual: int

    def given(self, job: Job) -> Job:
        """The job of training by this method."""
        preset = preset_of(self.adapter.name)
        return replace(
            job,
            num_trainable=self.num_trainable,
            low_rank=self.low_rank,
            reads=self.reads,
            dropout=self.dropout,
            virtual=self.virtual,
            full=self.full,
            depth=self.depth,
            layers=preset.layers,
            cuttable=preset.cuttable,
        )


def settled_method(asked: Named, shape: Shape) -> Method:
    """A method with its settings on a model of these sizes.

    Raises:
        RecipeError: a name or a setting is not known, or makes another method of it.
    """
    family, adapter = method_of(asked)
    targets, chosen = adapter.settings.get("targets", []), adapter.settings.get("top_layers", 0)
    sizes = shape.linear_sizes()
    adapted = list(sizes) if targets == ["all-linear"] else targets
    rank = adapter.settings.get("r", 0)
    return Method(
        adapter=adapter,
        family=family.__name__.rpartition(".")[2],
        num_trainable=family.count(shape, family.Config(**adapter.settings)),
        rank=rank,
        low_rank=rank * len(adapted),
        full=family.TRAINS == "model",
        depth=len(top_layers(chosen, shape.num_layers)) if chosen else 0,
        reads=sum(sizes.get(name, (shape.hidden, 0))[0] for name in adapted),
        dropout=adapter.settings.get("dropout", 0.0) > 0,
        virtual=num_inserted(asked),
    )


def job_of(
    method: Method, shape: Shape, *, item_bytes: int, work: Work, passed: Sequence[Tokenised], proof: ProofPlan
) -> Job:
    """What decides memory and time: before a micro-batch is chosen, the smallest that holds the longest example.

    `passed`: the examples that training passes through the model, those of dev among them.
    """
    longest = max(item.length for item in passed)
    shots = timing.SHOTS * work.num_tokens / work.num_examples if "few_shot" in proof.arms else 0.0
    answer = work.prompt_tokens + shots + proof.max_new_tokens
    job = Job(
        shape=shape,
        item_bytes=item_bytes,
        num_trainable=method.num_trainable,
        micro_tokens=longest + method.virtual,
        longest=longest,
        answer_rows=proof.batch_size,
        answer_tokens=round(proof.batch_size * min(answer, shape.context)),
    )
    return method.given(job)


def with_lora(job: Job) -> Job:
    """The same work with the default adapter, where another method was asked for."""
    if not job.full and job.low_rank and job.layers == "hand-written":
        return job
    return settled_method(Named(name="lora"), job.shape).given(replace(job, kept_tokens=0))


def way_of(job: Job, method: Method, passed: Sequence[Tokenised]) -> Way:
    """What a plan that does not fit may change."""
    asked = Named(name=method.adapter.name, settings=method.adapter.settings)
    return Way(
        rank=method.rank,
        lengths=[item.length for item in passed],
        job_of=lambda shape: settled_method(asked, shape).given(replace(job, shape=shape)),
        with_lora=with_lora(job),
        quantisable=not method.full and not preset_of(method.adapter.name).moves_base,
    )
