"""Sartor's own engine, through its protocol: all prompts at once, each with its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common import measure, read_job

from sartor.generate.protocol import Sampling
from sartor.hardware import prepare_environment
from sartor.names import resolve


def main() -> None:
    prepare_environment()  # as the command line does, before torch starts
    job = read_job()
    folders = {name: Path(folder) for name, folder in job.folders.items()}
    engine = resolve("generate", "sartor").open_engine(
        Path(job.model), folders, dtype=job.dtype, num_threads=job.threads
    )

    def answer(prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        sampling = Sampling(max_new_tokens=new_tokens, stop_ids=frozenset())
        for token in engine.stream(prompts, sampling, adapters):
            answers[token.row].append(token.id)
        return answers

    measure(job, answer)


if __name__ == "__main__":
    main()
