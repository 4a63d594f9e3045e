"""What the peers that use transformers' Trainer have in common: TRL, plain Trainer, LLaMA-Factory.

Runs in their environments. One callback notes times, rows, positions and labels as the Trainer's own collator makes
them, so that nothing of a framework is replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from common import ALPHA, IGNORED, RANK, SEED, Clock, Job, report
from peft import LoraConfig
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import BatchRebalanceSampler


class SameSteps(Trainer):  # type: ignore[misc]
    """A Trainer whose `batch_rebalance` shuffles nothing: each step has the rows that it has for everyone."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, BatchRebalanceSampler):
            sampler.shuffle = False
        return sampler


class Watch(TrainerCallback):
    """Ticks where Sartor's side ticks: before the first step and after each update. Exports between two steps."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._rows = {tuple(ids): row for row, ids in enumerate(job.ids)}
        self._batches: list[tuple[list[int], int, int]] = []
        self._losses: list[float] = []
        self._clock = Clock()

    def on_train_begin(self, *_: Any, train_dataloader: Any, **__: Any) -> None:
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)  # accelerate may wrap it
        collate = loader.collate_fn

        def noted(features: list[dict[str, Any]]) -> Any:
            rows = [self._rows[tuple(row["input_ids"])] for row in features]
            batch = collate(features)
            self._batches.append((rows, batch["input_ids"].numel(), int((batch["labels"][:, 1:] != IGNORED).sum())))
            return batch

        loader.collate_fn = noted
        self._clock.resume()

    def on_step_end(self, _: Any, state: Any, __: Any, *, model: Any, **___: Any) -> None:
        self._clock.tick()
        folder = self._job.export_folder(state.global_step)
        if folder is not None:
            model.save_pretrained(folder)
            self._clock.resume()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._losses.append(float(logs["loss"]))

    def report(self) -> None:
        """Print the result."""
        job = self._job
        size = job.batch_size // job.micro_batch
        steps = [self._batches[step * size : (step + 1) * size] for step in range(job.num_steps)]
        report(
            job,
            clock=self._clock,
            rows=[[row for rows, _, _ in step for row in rows] for step in steps],
            losses=self._losses,
            num_slots=[sum(num_slots for _, num_slots, _ in step) for step in steps],
            num_trained=[sum(num_trained for _, _, num_trained in step) for step in steps],
        )


def lora() -> LoraConfig:
    """The adapter that is held equal."""
    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def held_equal(job: Job) -> dict[str, Any]:
    """What the benchmark sets for everyone: fields of TrainingArguments. Nothing is saved or sent."""
    torch.set_num_threads(job.threads)
    return {
        "per_device_train_batch_size": job.micro_batch,
        "gradient_accumulation_steps": job.batch_size // job.micro_batch,
        "max_steps": job.num_steps,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": SEED,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows(job: Job) -> dict[str, list[list[int]]]:
    """Columns of the data set, in the order that the job asks for."""
    order = job.order()
    return {"input_ids": [job.ids[row] for row in order], "labels": [job.labels[row] for row in order]}
