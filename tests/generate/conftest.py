"""Tiny random models of several families, adapters for them, and transformers' own answers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES: dict[str, Any] = {
    "vocab_size": 480,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
#: Family -> what it has beyond Llama: norms of heads; norms of 1 + w, scaled embeddings, sliding windows; soft caps.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {},
    "Mistral": {"sliding_window": 24},
    "Phi3": {"partial_rotary_factor": 1.0},
    "Gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16},
    "Gemma3": {
        "sliding_window": 24,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
    },
}


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny random model in fp32, by its family; with other sizes than `SIZES`, if some are given."""
    made: dict[tuple[str, str], Path] = {}

    def folder(family: str, **sizes: int) -> Path:
        key = family, str(sizes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(family)
            _save(family, made[key], sizes)
        return made[key]

    return folder


def _save(family: str, folder: Path, sizes: Mapping[str, int]) -> None:
    import transformers

    kind: Any = operator.attrgetter("Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(transformers)
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(kind(**{**SIZES, **FAMILIES[family], **sizes}))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.normal_(0.0 if family.startswith("Gemma") else 1.0, 0.2)
        else:
            parameter.data.mul_(4.0)  # random weights of 0.02 give almost flat logits
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def make_adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    """Adapters with random weights, as PEFT writes them, by name; ranks and targets differ from one to the next."""

    def make(base: Path, *names: str, **settings: Any) -> dict[str, Path]:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folders = {}
        for seed, name in enumerate(names):
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            targets = ["q_proj", "v_proj", "down_proj"] if seed == 1 else "all-linear"
            chosen = {"r": 4 + 2 * seed, "target_modules": targets, "task_type": "CAUSAL_LM", **settings}
            model = get_peft_model(model, LoraConfig(**chosen))
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if "lora_B" in key:
                        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
            folders[name] = tmp_path_factory.mktemp("adapter")
            model.save_pretrained(folders[name])
        return folders

    return make


@pytest.fixture(scope="session")
def plain_answers() -> Callable[..., list[list[int]]]:
    """transformers' greedy answers, each prompt alone; with PEFT's own layers if an adapter's folder is given."""

    def answers(
        base: Path, prompts: Sequence[Sequence[int]], count: int, adapter: Path | None = None
    ) -> list[list[int]]:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        return [
            model.generate(
                input_ids=torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),  # else pad tokens in it are masked
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=-1,
            )[0, len(prompt) :].tolist()
            for prompt in prompts
        ]

    return answers
