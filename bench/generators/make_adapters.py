"""Adapters to serve: LoRA r = 16 on all linear layers, random, different from each other, and not the identity.

python make_adapters.py MODEL FOLDER COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

RANK, ALPHA, SCALE = 16, 32, 1e-3


def main(model: str, folder: str, count: int) -> None:
    for number in range(count):
        torch.manual_seed(number)
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, local_files_only=True)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        tuned = get_peft_model(base, config)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=SCALE)
        tuned.save_pretrained(Path(folder) / f"adapter-{number}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
