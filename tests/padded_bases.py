"""Tiny random bases beside decoders, with a tokenizer of their own words, and rows for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SAID = "refund broken late parcel invoice where is my why was the i it not paid money lost screen cracked please help "
WORDS = [*SAID.split(), "billing", "delivery", "damage", "card", "order", "again"]
LABELS = {
    "billing": "refund invoice paid money",
    "delivery": "late parcel lost where",
    "damage": "broken screen cracked",
}


def write_bert(folder: Path) -> Path:
    """An encoder of two layers."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=_write_tokenizer(folder, {"cls_token": "[CLS]", "sep_token": "[SEP]"}),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    """An encoder-decoder of two layers each."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(3)
    config = T5Config(
        vocab_size=_write_tokenizer(folder, {"eos_token": "[SEP]"}),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=3,
        pad_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def rows(count: int) -> list[dict[str, str]]:
    """Complaints and what they are about."""
    found = []
    for number in range(count):
        label = sorted(LABELS)[number % 3]
        words = LABELS[label].split()
        said = ["my", words[number % len(words)], "i", WORDS[7 + number % 9], *["please"] * (number % 5)]
        found.append(
            {"prompt": " ".join([*said, words[(number // 3) % len(words)], WORDS[number % 7 + 9]]), "completion": label}
        )
    return found


def write_project(folder: Path, base: Path, recipe: str, data: list[dict[str, str]]) -> Path:
    """Rows and a recipe for them; the recipe's path."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    path = folder / "sartor.yaml"
    path.write_text(f"model: {base}\ndata: rows.jsonl\n{recipe}")
    return path


def _write_tokenizer(folder: Path, special: dict[str, str]) -> int:
    """Whole words, cut at ten tokens as sentence encoders' folders do; its size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(WORDS)])
    }
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = "[CLS] $A [SEP]" if "cls_token" in special else "$A [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_truncation(10)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **special)
    fast.save_pretrained(folder)
    return len(vocabulary)
