"""What cleaners may know: tokens by a real tokenizer, meanings by a real encoder, opened only when they are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.errors import ModelError
from sartor.types import Chat, Message, Source
from sartor.workshop import Job
from sartor.workshop.knowing import ENCODER, embed_by, knowing


def test_tokens_are_counted_by_the_named_base(tmp_path: Path) -> None:
    context = knowing(Job(tmp_path, tmp_path), model="smollm2-135m-instruct", encoder=ENCODER, held_out=())
    asked, said = Message(role="user", content="Who?"), Message(role="assistant", content="She.")
    assert context.count_tokens is not None
    assert context.count_tokens(Chat(source=Source(file="a", line=1), messages=(asked, said))) > 4
    assert knowing(Job(tmp_path, tmp_path), model=None, encoder=ENCODER, held_out=()).count_tokens is None


def test_an_unknown_encoder_is_told_when_it_is_needed() -> None:
    embed = embed_by("no-such-encoder")
    with pytest.raises(ModelError, match="no-such-encoder"):
        embed([(Message(role="user", content="x"),)])


def test_meanings_are_compared_by_the_encoder_that_comes_with_a_package() -> None:
    texts = ("The shop opens at nine.", "At nine the shop opens.", "A whale is no fish.")
    vectors_ND = embed_by()([(Message(role="user", content=text),) for text in texts])
    likeness = vectors_ND @ vectors_ND.T
    assert likeness[0, 1] > 0.8 > 0.4 > likeness[0, 2]
