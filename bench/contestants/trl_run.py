"""TRL's SFTTrainer on the shared rows: what `trl_default` and `trl_tuned` have in common. Runs in TRL's environment."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from common import ALPHA, BATCH_SIZE, IGNORED, LEARNING_RATE, RANK, SEED, Clock, Job, report
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class StepTimes(TrainerCallback):
    """Ticks where Sartor's side ticks: before the first step, and after each update."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock.tick()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.tick()


class Recorder:
    """TRL's own collator, with a note of the rows it was given, the positions it made of them, and those trained."""

    def __init__(self, collate: Any, rows: dict[tuple[int, ...], int]) -> None:
        self._collate = collate
        self._rows = rows
        self.batches: list[tuple[list[int], int, int]] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        batch = self._collate(features)
        rows = [self._rows[tuple(row["input_ids"])] for row in features]
        num_trained = int((batch["labels"][:, 1:] != IGNORED).sum())
        self.batches.append((rows, batch["input_ids"].numel(), num_trained))
        return batch


def run(job: Job, order: Sequence[int], *, micro_batch: int, **settings: Any) -> None:
    """Train on the rows in this order and print the result. `settings` are fields of SFTConfig."""
    torch.set_num_threads(job.threads)
    accumulation = BATCH_SIZE // micro_batch
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=job.model,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=accumulation,
                **{**held_equal(job), **settings},
            ),
            train_dataset=Dataset.from_dict(
                {"input_ids": [job.ids[row] for row in order], "labels": [job.labels[row] for row in order]}
            ),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear"),
            callbacks=[StepTimes(clock)],
        )
        recorder = Recorder(trainer.data_collator, {tuple(ids): row for row, ids in enumerate(job.ids)})
        trainer.data_collator = recorder
        trainer.train()
    steps = [recorder.batches[step * accumulation : (step + 1) * accumulation] for step in range(job.num_steps)]
    report(
        job,
        clock=clock,
        rows=[[row for rows, _, _ in step for row in rows] for step in steps],
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        num_slots=[sum(num_slots for _, num_slots, _ in step) for step in steps],
        num_trained=[sum(num_trained for _, _, num_trained in step) for step in steps],
    )


def held_equal(job: Job) -> dict[str, Any]:
    """What the benchmark sets for everyone. `sequential` keeps the order of the rows; nothing is saved or sent."""
    return {
        "max_steps": job.num_steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "seed": SEED,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
