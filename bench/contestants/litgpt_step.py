"""litgpt's LoRA on the shared rows, through its own `finetune.lora.setup`. `--options` chooses the tier.

`{"tier": "default"}`: its own precision and micro-batches of 1. Otherwise one point of the grid: `bf16-true`, or
`32-true` where that is everyone's; rows grouped by length, `micro_batch` rows at once. Its learning rate falls by a
cosine and its first step has none, it does not clip, and its loss is a mean of means over micro-batches: good for speed
and memory, not for comparing results.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import ALPHA, IGNORED, RANK, Clock, Job, peak_bytes, read_job, report
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.data.base import get_sft_collate_fn
from litgpt.finetune.lora import setup
from litgpt.prompts import Default
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from torch.utils.data import DataLoader

NAME = "SmolLM2-135M-Instruct"
PRECISIONS = {"bfloat16": "bf16-true", "float32": "32-true"}
LORA: dict[str, Any] = {"lora_r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0}
LORA |= {f"lora_{part}": True for part in ("query", "key", "value", "projection", "mlp")}


class Notes:
    """What is noted while it runs: this module's only state, because litgpt builds the optimizer by its name."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.batches: list[tuple[list[int], int, int]] = []
        self.peak = 0


NOTES = Notes()


class TimedAdamW(torch.optim.AdamW):
    """AdamW that ticks after each update."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        NOTES.clock.tick()
        NOTES.peak = peak_bytes()  # litgpt merges at the end, which is not training
        return result


class Rows(DataModule):
    """The shared rows as litgpt wants its data."""

    prompt_style = Default()

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        self._collate = get_sft_collate_fn()

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        pass

    def train_dataloader(self) -> DataLoader[Any]:
        items = [self._item(row) for row in self._job.order()]
        return DataLoader(items, batch_size=self._job.micro_batch, collate_fn=self._noted)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self._item(0)], batch_size=1, collate_fn=self._collate)  # type: ignore[arg-type]

    def _item(self, row: int) -> dict[str, Any]:
        ids = torch.tensor(self._job.ids[row])
        counts = {"raw": len(ids), "raw_plus_prompt_template": len(ids)}
        return {"input_ids": ids, "labels": torch.tensor(self._job.labels[row]), "token_counts": counts, "row": row}

    def _noted(self, items: list[dict[str, Any]]) -> Any:
        if not NOTES.batches:
            NOTES.clock.resume()
        batch = self._collate(items)
        num_trained = int((batch["labels"][:, 1:] != IGNORED).sum())
        NOTES.batches.append(([item["row"] for item in items], batch["input_ids"].numel(), num_trained))
        return batch


def convert(model: Path, folder: Path) -> Path:
    """The checkpoint in litgpt's own format, beside links to the files it was made from."""
    target = folder / NAME
    target.mkdir()
    for path in model.iterdir():
        (target / path.name).symlink_to(path)
    convert_hf_checkpoint(target, dtype="bfloat16")
    return target


def losses(folder: Path, job: Job) -> list[float]:
    """The loss of each step from litgpt's own log: the mean over its micro-batches."""
    with next(folder.rglob("metrics.csv")).open(encoding="utf-8") as file:
        noted = [float(line["loss"]) for line in csv.DictReader(file) if line.get("loss")]
    size = job.batch_size // job.micro_batch
    return noted[size - 1 :: size]


def main() -> None:
    job = read_job()
    if job.method == "full":
        raise SystemExit("litgpt is measured with LoRA only")
    if job.is_default:
        job.options["micro_batch"] = 1
    torch.set_num_threads(job.threads)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = convert(Path(job.model), folder)
        # At its end litgpt reads its own command line again, to merge the adapter with these settings.
        sys.argv = ["litgpt", str(checkpoint), *(f"--{name}={value}" for name, value in LORA.items())]
        setup(
            checkpoint,
            out_dir=folder / "out",
            precision=None if job.is_default else PRECISIONS[job.options["dtype"]],
            **LORA,
            data=Rows(job),
            train=TrainArgs(
                save_interval=None,
                log_interval=1,
                global_batch_size=job.batch_size,
                micro_batch_size=job.micro_batch,
                lr_warmup_steps=1,
                epochs=2,
                max_steps=job.num_steps,
            ),
            eval=EvalArgs(
                interval=10**6, max_new_tokens=1, max_iters=1, initial_validation=False, final_validation=False
            ),
            optimizer={
                "class_path": f"{__name__}.TimedAdamW",
                "init_args": {"lr": job.learning_rate, "weight_decay": 0.0},
            },
        )
        noted = losses(folder, job)
    size = job.batch_size // job.micro_batch
    steps = [NOTES.batches[step * size : (step + 1) * size] for step in range(job.num_steps)]
    report(
        job,
        clock=NOTES.clock,
        rows=[[row for rows, _, _ in step for row in rows] for step in steps],
        losses=noted,
        num_slots=[sum(num_slots for _, num_slots, _ in step) for step in steps],
        num_trained=[sum(num_trained for _, _, num_trained in step) for step in steps],
        peak=NOTES.peak,
        first_groups=[rows for rows, _, _ in steps[0]],
    )


if __name__ == "__main__":
    main()
