"""Answers on one GPU: tokens a second of 64 prompts that begin alike, with our engine and transformers' `generate`.

    python bench/gpu_generate.py                            all models, in bf16
    python bench/gpu_generate.py --models tiny              anywhere, to see that this file works

Both get the same random ids: a beginning of 448 tokens that all share (few-shot examples, say), 64 of their own, and
128 greedy tokens each. `generate` has them in one batch, which is its best here. A fresh process for each; each is
timed after a round of the same. With four LoRA adapters of rank 16 the rows take turns among them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

import gpu

ROWS, SHARED, OWN, ANSWER, ADAPTERS = 64, 448, 64, 128, 4


def prompts(name: str) -> list[list[int]]:
    """Random ids, never those of a special token."""
    draw, vocabulary = torch.Generator().manual_seed(gpu.SEED), gpu.MODELS[name]["vocab_size"]
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


def sartor(name: str, folder: Path, adapters: dict[str, Path]) -> Any:
    """A round of all prompts."""
    from sartor.generate.protocol import Sampling
    from sartor.generate.sartor import open_engine

    engine = open_engine(folder, adapters, dtype="bfloat16")
    sampling = Sampling(max_new_tokens=ANSWER, stop_ids=())
    names = list(adapters) or [None]
    who = [names[row % len(names)] for row in range(ROWS)]
    if engine.warnings:
        raise RuntimeError(engine.warnings[0])
    return lambda: sum(1 for _ in engine.stream(prompts(name), sampling, who))


def transformers(name: str, folder: Path, adapters: dict[str, Path]) -> Any:
    """The same; adapters are left out, as one batch can have one only."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to(gpu.device()).eval()
    ids = torch.tensor(prompts(name), device=gpu.device())

    def run() -> int:
        settings = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": False, "pad_token_id": 0}
        return int(model.generate(ids, attention_mask=torch.ones_like(ids), **settings).shape[1] - ids.shape[1]) * ROWS

    return run


CONTESTANTS = {"sartor": sartor, "sartor, four adapters": sartor, "transformers": transformers}


def measure(contestant: str, name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """In this process: the median of a few rounds."""
    adapters = make_adapters(folder, folder.parent) if "four" in contestant else {}
    began = gpu.now()
    run = CONTESTANTS[contestant](name, folder, adapters)
    opened = gpu.now() - began
    run()
    speeds = []
    for _ in range(repeats):
        began = gpu.now()
        count = run()
        speeds.append(count / (gpu.now() - began))
    return {
        "contestant": contestant,
        "model": name,
        "tokens_per_second": round(statistics.median(speeds), 1),
        "spread": round((max(speeds) - min(speeds)) / statistics.median(speeds), 3),
        "open_seconds": round(opened, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["llama-3.1-8b", "smollm2-135m"], choices=sorted(gpu.MODELS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--one", nargs=3, metavar=("CONTESTANT", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        contestant, name, folder = arguments.one
        print(json.dumps(measure(contestant, name, Path(folder), arguments.repeats)))
        return
    if not torch.cuda.is_available() and arguments.models != ["tiny"]:
        print("no GPU here: nothing was run (`--models tiny` runs anywhere)")
        return
    results = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / name
            gpu.make_model(name, folder)
            for contestant in arguments.contestants:
                asked = ["--repeats", str(arguments.repeats)]
                results.append(gpu.measure_apart(__file__, contestant, name, folder, asked))
                print(json.dumps(results[-1]))
    if arguments.out:
        gpu.write(results, arguments.out)


if __name__ == "__main__":
    main()
