"""transformers' `generate`, padded on the left, rows sorted by length, `batch` rows at a time. Adapters by PEFT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import measure, read_job
from transformers import AutoModelForCausalLM


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=vars(torch)[job.dtype], local_files_only=True).eval()
    model.generation_config.eos_token_id = None  # every answer goes on to its full length, through its end, as ours do
    batch = int(job.options["batch"])
    if job.folders:
        raise SystemExit("measured without adapters only")

    @torch.inference_mode()
    def answer(prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        ranked = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        for start in range(0, len(ranked), batch):
            rows = ranked[start : start + batch]
            longest = max(len(prompts[row]) for row in rows)
            ids_BT = torch.tensor([[0] * (longest - len(prompts[row])) + list(prompts[row]) for row in rows])
            mask_BT = torch.tensor([[0] * (longest - len(prompts[row])) + [1] * len(prompts[row]) for row in rows])
            made_BT = model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                do_sample=False,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
            for row, ids_T in zip(rows, made_BT, strict=True):
                answers[row] = ids_T[longest:].tolist()
        return answers

    measure(job, answer)


if __name__ == "__main__":
    main()
