"""Answers on one GPU: tokens a second of 64 prompts that begin alike, with our engine and transformers' `generate`.

    python bench/gpu_generate.py                            all models, in bf16
    python bench/gpu_generate.py --models tiny              anywhere, to see that this file works

Both get the same random ids: a beginning of 448 tokens that all share (few-shot examples, say), 64 of their own, and
128 greedy tokens each, in every round others: our engine keeps what it has read. `generate` has them in one batch. A
fresh process for each; rounds are timed after one to warm up. With four LoRA adapters of rank 16 the rows take turns
among them.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import gpu

ROWS, SHARED, OWN, ANSWER, ADAPTERS = 64, 448, 64, 128, 4
COLUMNS: gpu.Columns = {"new tokens/s": ("tokens_per_second", ",.0f"), "ready after, s": ("open_seconds", ".1f")}

#: Answers all prompts of a round, by its number; gives how many tokens came.
Round = Callable[[int], int]


def prompts(name: str, number: int) -> list[list[int]]:
    """Random ids of a round, never those of a special token."""
    draw, vocabulary = torch.Generator().manual_seed(gpu.SEED + number), gpu.MODELS[name]["vocab_size"]
    shared = torch.randint(10, vocabulary, (SHARED,), generator=draw).tolist()
    own = torch.randint(10, vocabulary, (ROWS, OWN), generator=draw).tolist()
    return [shared + each for each in own]


def make_adapters(folder: Path, parent: Path) -> dict[str, Path]:
    """LoRA adapters with random weights, as PEFT writes them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = LoraConfig(r=gpu.RANK, lora_alpha=2 * gpu.RANK, target_modules="all-linear", init_lora_weights=False)
    found: dict[str, Path] = {}
    for number in range(ADAPTERS):
        torch.manual_seed(number)
        tuned = get_peft_model(model, config)
        found[f"a{number}"] = parent / f"a{number}"
        tuned.save_pretrained(found[f"a{number}"])
        model = tuned.unload()
    return found


def sartor(name: str, folder: Path, adapters: dict[str, Path]) -> Round:
    """Our engine."""
    from sartor.generate.protocol import Sampling
    from sartor.generate.sartor import open_engine

    engine = open_engine(folder, adapters, dtype="bfloat16")
    sampling = Sampling(max_new_tokens=ANSWER, stop_ids=frozenset())
    names: list[str | None] = [*adapters] or [None]
    who = [names[row % len(names)] for row in range(ROWS)]
    if engine.warnings:
        raise RuntimeError(engine.warnings[0])
    return lambda number: sum(1 for _ in engine.stream(prompts(name, number), sampling, who))


def transformers(name: str, folder: Path, adapters: dict[str, Path]) -> Round:
    """The same; adapters are left out, as one batch can have one only."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to(gpu.device()).eval()
    model.generation_config.eos_token_id = None  # answers go on to their full length, as ours do

    def run(number: int) -> int:
        ids = torch.tensor(prompts(name, number), device=gpu.device())
        settings = {"max_new_tokens": ANSWER, "do_sample": False, "pad_token_id": 0}
        return int(model.generate(ids, attention_mask=torch.ones_like(ids), **settings).shape[1] - ids.shape[1]) * ROWS

    return run


CONTESTANTS = {"sartor": sartor, "sartor, four adapters": sartor, "transformers": transformers}


def measure(contestant: str, name: str, folder: Path, repeats: int) -> gpu.Json:
    """In this process: the median of a few rounds, none of which the engine has read before."""
    adapters = make_adapters(folder, folder.parent) if "four" in contestant else {}
    began = gpu.now()
    run = CONTESTANTS[contestant](name, folder, adapters)
    opened = gpu.now() - began
    run(0)
    speeds = []
    for number in range(1, repeats + 1):
        began = gpu.now()
        count = run(number)
        speeds.append(count / (gpu.now() - began))
    return {
        "contestant": contestant,
        "model": name,
        "tokens_per_second": round(statistics.median(speeds), 1),
        "spread": round((max(speeds) - min(speeds)) / statistics.median(speeds), 3),
        "open_seconds": round(opened, 1),
    }


def main() -> None:
    asking = gpu.parser(__doc__ or "", CONTESTANTS)
    asking.add_argument("--repeats", type=int, default=3, help="timed rounds of a process")
    options = asking.parse_args()
    if options.one:
        contestant, name, folder = options.one
        print(json.dumps(measure(contestant, name, Path(folder), options.repeats)))
    else:
        gpu.deliver(gpu.run_all(__file__, options, sys.argv[1:]), COLUMNS, options.out)


if __name__ == "__main__":
    main()
