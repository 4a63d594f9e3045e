"""What several tests share: the real model and tokenizers, a tiny random model, and a plan to train it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from sartor import cli
from sartor.hub import find
from sartor.plan import Choice, Estimate, ModelChoice, Plan, ProofPlan
from sartor.recipe import ModelSpec

from .shell import Shell

# The same examples every time, so that a red test stays red; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# Without a GPU Triton runs its kernels as Python. It reads this when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# bitsandbytes asks for a compiler as it is imported, and a process of the tests would wait three seconds for that.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

#: The files that take longest. They begin first: begun last, one keeps a worker busy while the other waits.
LONGEST = (
    *("test_survival.py", "test_torchrun.py", "test_cli.py", "test_fsdp.py"),
    *("test_padded_runs.py", "test_quantised_tuning.py", "test_full_tuning.py"),
)

TOKENIZERS = Path(__file__).parent.parent / ".cache" / "tokenizers"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """What is imported by now stays. Stages collect garbage between them, and would look through all of it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct, from the package that carries it."""
    return find(ModelSpec(name="smollm2-135m-instruct")).folder


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_folder: Path) -> Any:
    """A small ChatML model without tools."""
    return _tokenizer(smollm2_folder)


@pytest.fixture(scope="session")
def qwen3_tokenizer() -> Any:
    """Tools, reasoning, and a template that rewrites history. `make test` puts its folder in place."""
    return _tokenizer(TOKENIZERS / "qwen3")


@pytest.fixture(scope="session")
def llama_tokenizer() -> Any:
    """Llama 3.1: header tokens around each role, and a template that takes white space off what is said."""
    return _tokenizer(TOKENIZERS / "llama3_1")


@pytest.fixture(scope="session")
def gemma_tokenizer() -> Any:
    """Gemma 3: 262,145 tokens, many of them added ones; the system prompt becomes a part of the first question."""
    return _tokenizer(TOKENIZERS / "gemma3")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, smollm2_folder: Path) -> Path:
    """A random Llama of 2 layers in fp32, with SmolLM2's tokenizer: everything real but the size."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # for which there are kernels
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # random weights of 0.02 give almost flat logits: gradients would say little
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(smollm2_folder / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """A small plan for a model folder; any field can be given."""
    return plan_for


def plan_for(folder: Path | str = "", **changes: Any) -> Plan:
    dtype = changes.pop("dtype", "float32")
    proof = ProofPlan(
        arms=("zero_shot", "few_shot", "tuned"),
        metric=Choice(name="exact"),
        goal=0.0,
        items=12,
        dev_items=4,
        max_new_tokens=8,
        batch_size=4,
        max_forgetting=0.5,
        seed=3,
    )
    facts: dict[str, Any] = {
        "model": ModelChoice(
            name="tiny", path=str(folder), revision="local", digest="0", dtype=dtype, template={}, context=512
        ),
        "backend": "torch",
        "objective": Choice(name="sft"),
        "adapter": Choice(name="lora", settings={"r": 4}),
        "family": "lora",
        "optimizer": "adamw",
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "schedule": "linear",
        "clip": 1.0,
        "weight_decay": 0.0,
        "epochs": 1.0,
        "steps": 20,
        "batch_size": 4,
        "micro_tokens": 64,
        "max_length": 32,
        "save_every": 4,
        "evaluate_every": 10,
        "seed": 7,
        "num_threads": 1,
        "environment": {},
        "num_trainable": 1,
        "proof": proof,
        "data": "0",
        "estimate": Estimate(peak_bytes=1, seconds=1.0, tokens=1),
        "reasons": {},
    }
    return Plan(**{**facts, **changes})


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    assert (folder / "tokenizer.json").exists(), f"no tokenizer in {folder}: run `make test`, which puts it there"
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """`sartor` in this process, in a folder of its own."""
    monkeypatch.setattr(cli.talk, "file", None)
    return Shell(tmp_path, monkeypatch, capsys)
