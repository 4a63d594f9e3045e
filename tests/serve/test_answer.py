"""One answer as pieces: one a token, and nothing after the one that ends it."""

from __future__ import annotations

from typing import Any

import pytest

from sartor.errors import UserError
from sartor.generate.protocol import NoRoom, Sampling
from sartor.serve.answer import Answering, Piece, Question
from sartor.serve.errors import ApiError

STOP_IDS = frozenset({256})


def pieces(engine: Any, renderer: Any, *stops: str, limit: int = 100) -> list[Piece]:
    """The answer by an engine that has nothing else to do, up to its last piece."""
    answering = Answering(engine, renderer, Question((104,), Sampling(limit, STOP_IDS), None, stops))
    handle = answering.join()
    made: list[Piece] = []
    while not made or made[-1].finish is None:
        (token,) = engine.advance()
        assert token.row == handle
        made.append(answering.push(token))
    return made


def test_one_piece_per_token(scripted: Any, byte_renderer: Any) -> None:
    made = pieces(scripted(script="né!"), byte_renderer())
    assert [piece.text for piece in made] == ["n", "", "é", "!", ""]
    assert [piece.finish for piece in made] == [None, None, None, None, "stop"]


def test_what_is_held_back_comes_at_the_end(scripted: Any, byte_renderer: Any) -> None:
    assert [piece.text for piece in pieces(scripted(script="abc"), byte_renderer(), "bcd")] == ["a", "", "", "bc"]
    cut = pieces(scripted(script="abé"), byte_renderer(), "bx", limit=3)
    assert cut == [Piece("a"), Piece(""), Piece("b\ufffd", "length")]


def test_a_stop_string_ends_the_answer(scripted: Any, byte_renderer: Any) -> None:
    assert pieces(scripted(script="abcdef"), byte_renderer(), "cd") == [
        Piece("a"),
        Piece("b"),
        Piece(""),
        Piece("", "stop"),
    ]
    assert pieces(scripted(script="abc"), byte_renderer(), "bc", limit=3)[-1] == Piece("", "stop")


def test_too_little_room_is_told_apart_from_other_refusals(scripted: Any, byte_renderer: Any) -> None:
    engine = scripted()

    def join(error: UserError) -> int:
        def refuse(*_: Any) -> int:
            raise error

        engine.submit = refuse
        return Answering(engine, byte_renderer(), Question((104,), Sampling(9, STOP_IDS), None)).join()

    with pytest.raises(ApiError, match=r"it does not fit into the cache\. ask for less") as refused:
        join(NoRoom("it does not fit into the cache", hint="ask for less"))
    assert refused.value.status == 400
    assert refused.value.body["error"]["code"] == "context_length_exceeded"
    assert refused.value.body["error"]["param"] == "messages"
    with pytest.raises(UserError, match="no answers"):
        join(UserError("this model gives embeddings, no answers", hint="ask for them"))
