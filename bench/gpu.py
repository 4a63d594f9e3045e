"""LoRA in bf16 on one GPU: useful tokens a second, share of the measured bf16 peak, peak memory; beside the peers.

    python bench/gpu.py                              all models, all contestants; one that is not installed says so
    python bench/gpu.py --models smollm2-135m --contestants sartor unsloth
    python bench/gpu.py --models llama-3.1-8b --layers 8 --turns 1 --kernels 30    and which kernels a step's time is

Every contestant gets the same random ids (2,048 tokens a sequence, the second half trained), the same LoRA (r=16, all
linear layers), as many sequences a step, and fresh processes that take turns. Weights are random: speed does not depend
on them. Without a GPU nothing is run; the model `tiny` runs anywhere, to see that this file works.

Utilisation is `workload.flop_per_token` times the rate, by the best bf16 product before and after.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from figures import header, line, spread
from harness import OURS, Machine, say
from sartor.errors import MachineError
from sartor.hub import shape
from workload import flop_per_token

Json = dict[str, Any]

RANK, LENGTH, SEED = 16, 2048, 17
#: Sizes of the models: Llama-3.1-8B, SmolLM2-135M, and one that trains anywhere in a second.
MODELS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip
#: What a table shows: the key in a result, and how it is written.
Columns = dict[str, tuple[str, str]]
COLUMNS: Columns = {
    "tokens/s": ("tokens_per_second", ",.0f"),
    "of bf16 peak": ("utilisation", ".1%"),
    "peak memory, GiB": ("peak_memory_gib", ".1f"),
    "first step, s": ("first_step_seconds", ".1f"),
}

#: Trains one step on all sequences: what is timed.
Step = Callable[[], None]


def make_model(name: str, folder: Path, layers: int | None = None) -> None:
    """Random bf16 weights of a model's shape, or of its first layers alone, as a Hugging Face folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    facts = MODELS[name] | ({"num_hidden_layers": layers} if layers else {})
    config = LlamaConfig(**facts, max_position_embeddings=2 * LENGTH, dtype="bfloat16")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    no_words().save_pretrained(folder)  # Unsloth wants a tokenizer beside a model


def sequences(name: str, count: int, length: int) -> torch.Tensor:
    """Random ids (count, length)."""
    return torch.randint(MODELS[name]["vocab_size"], (count, length), generator=torch.Generator().manual_seed(SEED))


def measured_peak() -> float:
    """FLOP/s of a large bf16 product, the best of a few."""
    size = 8192 if torch.cuda.is_available() else 512
    left, right = (torch.randn(size, size, device=device(), dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        began = now()
        torch.mm(left, right)
        best = min(best, now() - began)
    return 2.0 * size**3 / best


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """Seconds, once the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# ---- the contestants: each gives a step ------------------------------------------------------------------------------


def sartor_step(folder: Path, ids: torch.Tensor, micro: int) -> Step:
    """Our backend, as the loop drives it."""
    from sartor.backends import open_backend
    from sartor.data.pack import pack, segment
    from sartor.names import resolve
    from sartor.plan import Adam

    sft = resolve("objectives", "sft")
    num_rows, length = ids.shape
    weights = [0.0] * (length // 2) + [1.0] * (length - length // 2)
    rows = [segment(f"row {number}", [*row, 0], [*weights, 1.0]) for number, row in enumerate(ids.tolist())]
    backend = open_backend(sartor_plan(folder, micro * length, num_rows))
    batches = pack(rows, micro_tokens=micro * length)
    weight = sum(sft.weight(batch) for batch in batches)

    def step() -> None:
        for batch in batches:
            backend.forward_backward(batch, sft, sft.Config(), weight)
        backend.step(Adam(learning_rate=1e-4))

    return step


def sartor_plan(folder: Path, micro_tokens: int, batch_size: int) -> Any:
    """A plan that says how to compute; the rest of it is not looked at here."""
    from sartor.plan import Choice, Estimate, ModelChoice, Plan, ProofPlan

    proof = ProofPlan(
        arms=("zero_shot", "tuned"), metric=Choice(name="exact"), goal=0.0, items=1, dev_items=1, max_new_tokens=1,
        batch_size=1, max_forgetting=1.0, seed=SEED,
    )  # fmt: skip
    model = ModelChoice(
        name=folder.name,
        path=str(folder),
        revision="local",
        digest="",
        dtype="bfloat16",
        template={},
        context=2 * LENGTH,
    )
    return Plan(
        model=model, backend="torch", objective=Choice(name="sft"),
        adapter=Choice(name="lora", settings={"r": RANK, "alpha": 2.0 * RANK}), family="lora", optimizer="adamw",
        learning_rate=1e-4, warmup_steps=1, schedule="constant", clip=1.0, weight_decay=0.0, epochs=1.0, steps=1,
        batch_size=batch_size, micro_tokens=micro_tokens, max_length=LENGTH, save_every=1, evaluate_every=1, seed=SEED,
        num_threads=torch.get_num_threads(), environment={}, num_trainable=1, proof=proof, data="", tile=4096,
        estimate=Estimate(peak_bytes=1, seconds=1.0, tokens=1), reasons={},
    )  # fmt: skip


def trl_liger_step(folder: Path, ids: torch.Tensor, micro: int) -> Step:
    """TRL's own trainer step with Liger's kernels and fused loss, bf16, without recomputation."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa", device_map=device()
    )
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=micro, bf16=True, use_liger_kernel=True,
        gradient_checkpointing=False, max_length=None, report_to=[], dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    adapter = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = Dataset.from_list([{"input_ids": row, "labels": row} for row in ids.tolist()])
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=rows, peft_config=adapter, processing_class=no_words()
    )  # fmt: skip
    trainer.create_optimizer()
    # As `train()` begins: what is prepared computes under bf16 autocast, without which the adapters' products are fp32.
    model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    return _by_hand(ids, micro, lambda inputs, count: trainer.training_step(model, inputs, count), trainer.optimizer)


def unsloth_step(folder: Path, ids: torch.Tensor, micro: int) -> Step:
    """Unsloth's model and LoRA with its fused loss, bf16, without recomputation."""
    from unsloth import FastLanguageModel  # must come before transformers

    model, _ = FastLanguageModel.from_pretrained(
        str(folder), dtype=torch.bfloat16, load_in_4bit=False, max_seq_length=2 * LENGTH
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=2 * RANK, target_modules=names, use_gradient_checkpointing=False
    )
    optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr=1e-4, fused=True)
    model.train()

    def forward_backward(inputs: dict[str, torch.Tensor], count: int) -> None:
        (model(**inputs).loss / max(1, ids.shape[0] // micro)).backward()

    return _by_hand(ids, micro, forward_backward, optimizer)


def _by_hand(ids: torch.Tensor, micro: int, forward_backward: Callable[..., Any], optimizer: Any) -> Step:
    labels = ids.clone()
    labels[:, : ids.shape[1] // 2] = -100
    places = torch.arange(ids.shape[1], device=device())
    count = (labels != -100).sum().to(device())

    def step() -> None:
        for rows, targets in zip(ids.split(micro), labels.split(micro), strict=True):
            inputs = {"input_ids": rows.to(device()), "labels": targets.to(device())}
            forward_backward({**inputs, "position_ids": places.expand(len(rows), -1)}, count)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def no_words() -> Any:
    """A tokenizer that peers can hold: nothing is tokenised here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="x", eos_token="x")


STEPS = {"sartor": sartor_step, "trl_liger": trl_liger_step, "unsloth": unsloth_step}


# ---- one run and the table -------------------------------------------------------------------------------------------


def measure(contestant: str, name: str, folder: Path, options: argparse.Namespace) -> Json:
    """In this process: median seconds a step after warming up, and what follows from them."""
    ids = sequences(name, options.rows, options.length)
    before = measured_peak()
    step = STEPS[contestant](folder, ids, options.micro)
    seconds = []
    for _ in range(options.warmup + options.steps):
        began = now()
        step()
        seconds.append(now() - began)
    timed = seconds[options.warmup :]
    median = statistics.median(timed)
    speed = ids.numel() / median
    peak = max(before, measured_peak())
    trained = (options.length - options.length // 2) / options.length
    needed = flop_per_token(shape(folder), [options.length], trained, rank=RANK, method="lora")
    return {
        "contestant": contestant,
        "model": name,
        "tokens_per_second": round(speed, 1),
        "utilisation": round(needed * speed / peak, 4),
        "peak_tflops": round(peak / 1e12, 2),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0.0,
        "first_step_seconds": round(seconds[0], 2),
        "spread": round((max(timed) - min(timed)) / median, 3),
        **({"kernels": kernels_of(step, options.kernels)} if options.kernels else {}),
    }


def kernels_of(step: Step, count: int) -> list[str]:
    """What takes most of a step's time on the GPU (without one, on the CPU): milliseconds, calls, and the name."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        step()
        now()
    found = [
        ((each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1e3, each.count, each.key)
        for each in seen.key_averages()
    ]
    largest = [f"{taken:.2f} {calls} {name[:100]}" for taken, calls, name in sorted(found, reverse=True)[:count]]
    return [f"{sum(taken for taken, *_ in found):.2f} all", *largest]


def asking_models(doc: str, *default: str) -> argparse.ArgumentParser:
    """What the scripts for a GPU all ask."""
    asking = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    asking.add_argument("--models", nargs="+", default=default, choices=sorted(MODELS))
    asking.add_argument("--out", type=Path, help="where to write the results as JSON")
    return asking


def require_gpu(models: Collection[str]) -> None:
    """Without a GPU `tiny` alone."""
    if not torch.cuda.is_available() and {*models} != {"tiny"}:
        raise SystemExit("no GPU here: nothing was run (`--models tiny` runs anywhere)")


def parser(doc: str, contestants: Collection[str]) -> argparse.ArgumentParser:
    """What those ask that compare contestants."""
    asking = asking_models(doc, "llama-3.1-8b", "smollm2-135m")
    asking.add_argument("--contestants", nargs="+", default=list(contestants), choices=list(contestants))
    asking.add_argument("--turns", type=int, default=3, help="fresh processes of each")
    asking.add_argument("--layers", type=int, help="of a model, the first so many, where all take too long to make")
    asking.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    asking.add_argument("--one", nargs=3, metavar=("CONTESTANT", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    return asking


def run_all(script: str, options: argparse.Namespace, asked: list[str]) -> list[Json]:
    """Every contestant on every model, in turn, in fresh processes; without a GPU `tiny` alone.

    Args:
        asked: the command line, which each process gets too.
    """
    require_gpu(options.models)
    results = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / name
            make_model(name, folder, options.layers)
            for turn in range(options.turns):
                for contestant in options.contestants:
                    one = [*asked, "--one", contestant, name, str(folder)]
                    results.append({"turn": turn, **measure_apart(script, contestant, name, one, options.threads)})
                    say(json.dumps(results[-1]))
    return results


def measure_apart(script: str, contestant: str, name: str, asked: list[str], threads: int) -> Json:
    """What a script measures in a fresh process, or why that failed."""
    try:
        return Machine(threads, gpu=True).process(OURS, Path(script), asked)
    except MachineError as error:
        return {"contestant": contestant, "model": name, "failed": error.message}


def deliver(results: list[Json], columns: Columns, path: Path | None) -> None:
    """Show the results, and write them with the machine and the day."""
    print(table(results, columns))
    if path:
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        about = {"machine": machine, "torch": torch.__version__, "date": datetime.date.today().isoformat()}
        path.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


def table(results: list[Json], columns: Columns) -> str:
    """Medians over the turns, with the lowest and highest, and below it what failed."""
    rows: dict[tuple[str, str], list[Json]] = {}
    for found in results:
        if "failed" not in found:
            rows.setdefault((found["model"], found["contestant"]), []).append(found)
    lines = header("model", "contestant", *columns)
    lines += [
        line([*names, *(spread([run[key] for run in runs], form) for key, form in columns.values())])
        for names, runs in rows.items()
    ]
    failed = [f"{run['contestant']}, {run['model']}: {run['failed']}" for run in results if "failed" in run]
    return "\n".join([*lines, *failed])


def main() -> None:
    asking = parser(__doc__ or "", STEPS)
    asking.add_argument("--rows", type=int, default=16, help="sequences a step")
    asking.add_argument("--micro", type=int, default=8, help="sequences a forward")
    asking.add_argument("--length", type=int, default=LENGTH)
    asking.add_argument("--steps", type=int, default=15)
    asking.add_argument("--warmup", type=int, default=5)
    asking.add_argument("--kernels", type=int, default=0, help="show so many kernels of a step")
    options = asking.parse_args()
    if options.one:
        contestant, name, folder = options.one
        print(json.dumps(measure(contestant, name, Path(folder), options)))
    else:
        deliver(run_all(__file__, options, sys.argv[1:]), COLUMNS, options.out)


if __name__ == "__main__":
    main()
