"""Convert: what a method made, as LoRA or as merged weights, for servers that know nothing else; scored again.

It reads a proved run and writes the folder `converted-<form>` beside its artifact, and `converted-<form>.json`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sartor import durable
from sartor.adapters import family_of_type
from sartor.adapters.changes import Changes, LowRank
from sartor.adapters.saving import export
from sartor.artifact.lineage import Lineage
from sartor.artifact.package import add_speech
from sartor.artifact.updates import low_rank, merged
from sartor.data.prepare import examples_of
from sartor.errors import Refused
from sartor.evaluate import Examiner
from sartor.events import Event
from sartor.hardware import release_memory
from sartor.metrics.load import load as load_metric
from sartor.names import resolve
from sartor.plan import Quantized
from sartor.proof import Item
from sartor.stages import Bench
from sartor.stats import paired
from sartor.store import LINEAGE, read_json
from sartor.types import Frozen

Form = Literal["lora", "model"]
MOST = 64  # ranks: vLLM takes so many when it is told, and no adapter here needs more


class Conversion(Frozen):
    """What became of an adapter: its new form, what was lost on the way, and what it scores before and after."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    form: Form
    method: str
    folder: str
    rank: int = Field(description="Of the LoRA; 0 for merged weights.")
    lost: float = Field(description="The share of the update's squared size that the rank could not hold.")
    before: float
    after: float
    difference: float
    low: float
    high: float
    n: int
    trained: str = Field(description="Digest of the training that was converted: another one needs another conversion.")

    @property
    def sentence(self) -> str:
        """What the conversion cost."""
        kept = f" of rank {self.rank}, which holds {1 - self.lost:.2%} of the update" if self.rank else ""
        return (
            f"{self.method} as {self.form}{kept}: {self.before:.1%} before, {self.after:.1%} after on {self.n} "
            f"held-out items ({100 * self.difference:+.1f} points, 95 % interval {100 * self.low:+.1f} to "
            f"{100 * self.high:+.1f})"
        )


def convert(bench: Bench, form: Form, *, most: int = MOST) -> Generator[Event, None, Conversion]:
    """The adapter of a proved run in another form, and what it then scores on the items of the proof.

    Args:
        most: the highest rank of a LoRA.

    Raises:
        Refused: its base is no decoder, it has no proof of a tuned arm yet, or its method cannot be given that form.
    """
    if bench.form != "decoder":
        raise Refused(f"{bench.run.id} is a {bench.form}", hint="it is served as it is: only decoders are converted")
    run, proof = bench.run, bench.plan.proof
    if not run.path("items.jsonl").is_file():
        raise Refused(
            f"{run.id} is not proved yet", hint="`sartor run` first: a conversion is scored on the same items"
        )
    before = [item for line in durable.read_lines(run.path("items.jsonl")) if (item := Item(**line)).arm == "tuned"]
    if not before:
        raise Refused(
            f"the proof of {run.id} has no tuned arm to compare with",
            hint="name tuned in `prove.arms`, or leave it out",
        )
    folder, trained = run.path(f"converted-{form}"), durable.digest(run.result)
    rank, lost = written(
        _loaded(bench.base.folder, bench.quantize), run.result, folder, form, most, dtype=bench.plan.model.dtype
    )
    release_memory()
    adapters, base = ({run.id: folder}, None) if form == "lora" else ({}, folder)
    with bench.engine(proof, adapters, base=base) as engine:
        examiner = Examiner(engine, bench.renderer, proof, load_metric(proof.metric.name))
        asked, arm = examples_of(run, "test")[: proof.items], resolve("arms", "tuned").Config()
        after = yield from examiner.examine("tuned", arm, asked, adapter=run.id if adapters else None)
    found = _compared(
        before,
        after,
        form=form,
        method=bench.plan.adapter.name,
        folder=folder.name,
        rank=rank,
        lost=lost,
        trained=trained,
    )
    durable.write_json(run.path(f"converted-{form}.json"), found.model_dump(mode="json", by_alias=True))
    return found


def _loaded(folder: Path, quantize: Quantized) -> Any:
    """The base in fp32, as the numbers that packed weights stand for: what is added up is rounded once."""
    import torch

    from sartor.base import load_base

    return load_base(folder, torch.float32, quantize)


def written(
    base: Any, trained: Path, target: Path, form: Form, most: int = MOST, *, dtype: str = "float32"
) -> tuple[int, float]:
    """Write the folder of a converted adapter, with tokenizer, template and lineage; its rank, and what was lost.

    Args:
        base: the loaded base that it was trained on; merging moves its weights.
        trained: the adapter's folder, with its lineage.
        dtype: of a merged model's weights on disk.

    Raises:
        Refused: the method cannot be given that form.
    """
    import torch

    lineage, changes = Lineage.model_validate(read_json(trained / LINEAGE)), changes_of(base, trained)
    rank, lost = 0, 0.0
    if form == "model":
        model = merged(base, changes)
    else:
        updates, lost = low_rank(base, changes, most)
        rank = max(len(update.down_RK) for update in updates.values())
        model = _as_peft(base, updates, rank)
    with durable.atomic_dir(target) as staging:
        if form == "model":
            model.to(vars(torch)[dtype]).save_pretrained(staging)
        else:
            export(model, staging)
        holds: Literal["adapter", "model"] = "model" if form == "model" else "adapter"
        add_speech(trained, staging, lineage.model_copy(update={"holds": holds}))
    return rank, lost


def changes_of(base: Any, folder: Path) -> Changes:
    """What the adapter in a folder makes of its loaded base.

    Raises:
        Refused: the folder holds a model of its own.
    """
    if not (folder / "adapter_config.json").is_file():
        raise Refused(f"{folder} holds a whole model", hint="it is served as it is: there is nothing to convert")
    changes: Changes = family_of_type(read_json(folder / "adapter_config.json")["peft_type"]).changes(base, folder)
    return changes


def _as_peft(base: Any, updates: Mapping[str, LowRank], rank: int) -> Any:
    """The base with a LoRA that holds the updates; its scale is 1."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(updates), task_type="CAUSAL_LM")
    model = get_peft_model(base, config, autocast_adapter_dtype=True)
    parts = dict(model.get_base_model().named_modules())
    with torch.no_grad():
        for name, update in updates.items():
            parts[name].lora_A["default"].weight.copy_(update.down_RK)
            parts[name].lora_B["default"].weight.copy_(update.up_NR)
    return model


def _compared(before: Sequence[Item], after: Sequence[Item], **facts: Any) -> Conversion:
    scores = [[item.score for item in items] for items in (before, after)]
    found = paired(scores[0], scores[1], seed=0)
    return Conversion(
        before=sum(scores[0]) / len(before),
        after=sum(scores[1]) / len(after),
        difference=found.difference,
        low=found.low,
        high=found.high,
        n=len(after),
        **facts,
    )
