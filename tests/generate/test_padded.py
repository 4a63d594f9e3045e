"""Padded batches: where answers end, which requests are computed together, and what cannot be embedded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertForSequenceClassification, BertModel

from sartor.errors import UserError
from sartor.generate.padded import PaddedEngine, open_engine
from sartor.generate.protocol import NoRoom, Sampling
from sartor.types import FIRST_LABEL

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
    model: Any = BartForConditionalGeneration(config)
    # What bases for summaries ask for; a request alone says how an answer ends.
    model.generation_config.update(min_length=6, no_repeat_ngram_size=1, forced_eos_token_id=4)
    model.save_pretrained(folder)
    return open_engine(folder, {}, form="seq2seq", dtype="float32")


def test_an_answer_ends_where_the_table_of_positions_does(engine: PaddedEngine) -> None:
    assert engine.context == CONTEXT
    prompts = [[5, 6, 7, 2], [9, 8, 2], [*range(5, 5 + CONTEXT - 2), 2]]
    tokens = list(engine.stream(prompts, Sampling(50, frozenset({99})), None))
    for row in range(len(prompts)):
        mine = [token for token in tokens if token.row == row]
        assert len(mine) == CONTEXT, "the source has positions of its own"
        assert [token.finish for token in mine] == [None] * (CONTEXT - 1) + ["length"]


def test_the_bases_own_habits_do_not_decide(engine: PaddedEngine) -> None:
    prompt = [5, 6, 7, 2]
    (first, *_), last = list(engine.stream([prompt], Sampling(8, frozenset({99})), None)), 4
    assert [token.id for token in engine.stream([prompt], Sampling(8, frozenset({99})), None)][-1] != last
    (stopped,) = engine.stream([prompt], Sampling(8, frozenset({first.id})), None)
    assert stopped.finish == "stop", "before the least length"


def test_a_text_that_is_too_long_is_refused(engine: PaddedEngine) -> None:
    with pytest.raises(NoRoom, match=f"a prompt of {CONTEXT} tokens leaves no room"):
        engine.submit([5] * CONTEXT, Sampling(1, frozenset()), None)
    with pytest.raises(UserError, match="empty"):
        engine.submit([], Sampling(1, frozenset()), None)
    assert not engine.requests


PROMPTS = ([5, 6, 7, 2], [9, 8, 2])
STOPS = frozenset({99})


def num_forwards(engine: PaddedEngine, part: Any, *asked: Sampling) -> tuple[int, list[list[int]]]:
    """How often a part of the model ran to answer two requests that came together, and the answers."""
    calls: list[int] = []
    hook = part.register_forward_hook(lambda *_: calls.append(1))
    handles = [engine.submit(prompt, each, None) for prompt, each in zip(PROMPTS, asked, strict=True)]
    told: dict[int, list[int]] = {handle: [] for handle in handles}
    while engine.requests:
        for token in engine.advance():
            told[token.row].append(token.id)
    hook.remove()
    return len(calls), list(told.values())


@pytest.mark.parametrize(
    ("first", "second", "forwards"),
    [
        (Sampling(6, STOPS, seed=1), Sampling(6, STOPS, seed=2, top_p=0.5), 1),
        (Sampling(6, STOPS), Sampling(7, STOPS), 2),
        (Sampling(6, STOPS), Sampling(6, frozenset({98})), 2),
        (Sampling(6, STOPS, temperature=1.0), Sampling(6, STOPS, temperature=1.0), 2),
        (Sampling(6, STOPS), Sampling(6, STOPS, temperature=1.0), 2),
        (Sampling(6, STOPS, temperature=1.0), Sampling(6, STOPS), 2),
    ],
)
def test_what_is_chosen_alike_is_computed_together(
    engine: PaddedEngine, first: Sampling, second: Sampling, forwards: int
) -> None:
    found, answers = num_forwards(engine, engine._models[None].get_encoder(), first, second)
    assert found == forwards
    alone = [
        [token.id for token in engine.stream([prompt], each, None)]
        for prompt, each in zip(PROMPTS, (first, second), strict=True)
    ]
    assert answers == alone


def tiny_bert(kind: Any) -> Any:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return kind(BertConfig(vocab_size=40, max_position_embeddings=CONTEXT, num_labels=3, **sizes)).eval()


def test_a_label_is_the_likeliest_whatever_is_asked() -> None:
    model = tiny_bert(BertForSequenceClassification)
    engine = PaddedEngine({None: model}, "classifier", context=CONTEXT, max_rows=8)
    asked = Sampling(1, STOPS, seed=1), Sampling(1024, STOPS, temperature=1.0, seed=2)
    forwards, answers = num_forwards(engine, model.bert, *asked)
    assert forwards == 1
    assert [answer[1:] for answer in answers] == [[99], [99]]
    assert all(FIRST_LABEL <= answer[0] < FIRST_LABEL + 3 for answer in answers)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([[1], [40]], "token 40 is not among the 40 of this model"),
        ([[1, -1]], "token -1 is not"),
        ([[1 << 70]], "is not among"),
        ([[1], []], "a text of 0 tokens"),
        ([[1], [1] * (CONTEXT + 1)], f"a text of {CONTEXT + 1} tokens"),
    ],
)
def test_what_cannot_be_embedded_is_refused(texts: list[list[int]], says: str) -> None:
    engine = PaddedEngine({None: tiny_bert(BertModel)}, "embedder", context=CONTEXT, max_rows=8)
    with pytest.raises(UserError, match=says) as refused:
        engine.embed(texts, None)
    assert refused.value.hint
    assert engine.embed([[1], [39, 0]], None).shape == (2, 16)
