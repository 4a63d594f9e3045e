"""Answers of an encoder-decoder whose positions are a table: they end where it does."""

from __future__ import annotations

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from sartor.generate.padded import PaddedEngine, open_engine
from sartor.generate.protocol import Sampling

CONTEXT = 12


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PaddedEngine:
    folder = tmp_path_factory.mktemp("bart")
    torch.manual_seed(3)
    config = BartConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=CONTEXT,
        forced_eos_token_id=None,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return open_engine(folder, {}, form="seq2seq", dtype="float32")


def test_an_answer_ends_where_the_table_of_positions_does(engine: PaddedEngine) -> None:
    assert engine.context == CONTEXT
    prompts = [[5, 6, 7, 2], [9, 8, 2], [*range(5, 5 + CONTEXT - 2), 2]]
    tokens = list(engine.stream(prompts, Sampling(50, frozenset({99})), None))
    for row in range(len(prompts)):
        mine = [token for token in tokens if token.row == row]
        assert len(mine) == CONTEXT, "the source has positions of its own"
        assert [token.finish for token in mine] == [None] * (CONTEXT - 1) + ["length"]
