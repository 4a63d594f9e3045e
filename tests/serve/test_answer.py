"""One answer as pieces: one per token, and the engine's stream is closed whatever happens."""

from __future__ import annotations

from typing import Any

import pytest

from sartor.generate.protocol import Sampling
from sartor.serve.answer import Piece, Question, answer

STOP_IDS = frozenset({256})


def pieces(engine: Any, renderer: Any, *stops: str, limit: int = 100) -> list[Piece]:
    question = Question((104,), Sampling(limit, STOP_IDS), None, stops)
    return list(answer(engine, renderer, question))


def test_one_piece_per_token(scripted: Any, byte_renderer: Any) -> None:
    engine = scripted(script="né!")
    made = pieces(engine, byte_renderer())
    assert [piece.text for piece in made] == ["n", "", "é", "!", ""]
    assert [piece.finish for piece in made] == [None, None, None, None, "stop"]
    assert engine.num_closed == 1


def test_what_is_held_back_comes_at_the_end(scripted: Any, byte_renderer: Any) -> None:
    assert [piece.text for piece in pieces(scripted(script="abc"), byte_renderer(), "bcd")] == ["a", "", "", "bc"]
    cut = pieces(scripted(script="abé"), byte_renderer(), "bx", limit=3)
    assert cut == [Piece("a"), Piece(""), Piece("b\ufffd", "length")]


def test_a_stop_string_on_the_last_token_is_a_stop(scripted: Any, byte_renderer: Any) -> None:
    assert pieces(scripted(script="abc"), byte_renderer(), "bc", limit=3)[-1] == Piece("", "stop")


def test_closing_closes_the_engine(scripted: Any, byte_renderer: Any) -> None:
    engine = scripted()
    work = answer(engine, byte_renderer(), Question((104,), Sampling(9, STOP_IDS), None))
    next(work)
    assert engine.busy
    work.close()
    assert not engine.busy and len(engine.computed) == 1


def test_an_engine_that_ends_without_a_reason_is_a_bug(scripted: Any, byte_renderer: Any) -> None:
    engine = scripted()
    engine._answer = lambda sampling, adapter: [97, 98]
    with pytest.raises(RuntimeError, match="without a finish reason"):
        pieces(engine, byte_renderer())
