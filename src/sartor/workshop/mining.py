"""Failures of the untuned model on train and dev, as a data folder of seeds. The test split is never looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sartor.ask import Asker
from sartor.asked import metric_of
from sartor.augment.failures import measured, mined
from sartor.data.folder import DataFolder, card, making, told
from sartor.data.prepare import examples_of
from sartor.errors import Refused, UserError
from sartor.metrics.load import load as load_metric
from sartor.store import Run

if TYPE_CHECKING:
    from sartor.types import Progress

#: The longest answer, in tokens: a wrong one that goes on and on tells no more.
MAX_TOKENS = 256


def mine(run: Run, asker: Asker, to: Path, *, below: float = 1.0, progress: Progress | None = None) -> DataFolder:
    """Have the model answer what it could learn from, and keep what it answers wrongly, the worst first.

    Args:
        run: one whose data is prepared.
        below: a lower score than this is a failure.

    Raises:
        UserError: the data of the run is not prepared.
        Refused: it answers all of them right.
        DataError: the metric reads no answers.
    """
    if not run.path("data/train.jsonl").is_file():
        raise UserError(f"the data of {run.id} is not prepared yet", hint="sartor check")
    train = examples_of(run, "train")
    examples = (*train, *examples_of(run, "dev"))
    choice, _ = metric_of(run.recipe, train)
    metric = load_metric(choice.name)
    items = []
    config = metric.config_type(**choice.settings)
    for item in measured(examples, asker, metric, config, max_tokens=MAX_TOKENS, seed=run.recipe.tune.seed):
        items.append(item)
        if progress:
            progress(len(items), len(examples))
    found = mined(items, examples, held_out={example.id for example in examples_of(run, "test")}, below=below)
    if not found.seeds:
        raise Refused(f"{asker.name} fails on none of {len(items):,}", hint="raise --below, or bring harder examples")
    with making(to) as folder:
        folder.keep(*found.seeds)
        folder.tell(*found.entries)
        facts = [
            ("failures of", asker.name),
            ("scored by", f"{choice.name}, below {below:g}"),
            ("answered", f"{len(items):,} of train and dev"),
            ("failed", f"{folder.num_kept:,}"),
        ]
        folder.finish(card(f"Failures of {run.id}", facts, told(folder.counts)))
    return DataFolder(to)
