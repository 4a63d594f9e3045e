"""What a request says and what a reply means, without any network."""

from __future__ import annotations

import json

import pytest

from sartor.ask import Question, Wish, wire
from sartor.types import Message

ASKED = (Message(role="user", content="Why?"),)
#: 26 November 2026, 12:00 UTC.
NOON = 1795694400.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("Thu, 26 Nov 2026 12:00:30 GMT", 30.0),
        ("Thu, 26 Nov 2026 11:00:00 GMT", 0.0),
        ("Thu, 99 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float) -> None:
    assert wire.retry_after(value, NOON) == seconds


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"detail": [{"loc": 1}]}', '{"detail": [{"loc": 1}]}'),
        (b"no", "no"),
        (b"", "no words"),
        (b"[" * 10_000, "[" * 10_000),
        (b"\xff", "\ufffd"),
    ],
)
def test_the_words_of_an_error_are_found(body: bytes, words: str) -> None:
    assert wire.message_of(body) == words


def test_a_manner_ends_after_all_has_been_left_out() -> None:
    manner: wire.Manner | None = wire.Manner()
    formats = []
    while manner is not None:
        formats.append(manner.format)
        manner = manner.other("seed temperature max_completion_tokens", wants_schema=True)
    assert formats == ["json_schema"] * 4 + ["json_object", ""]


def test_the_same_words_under_two_keys_have_two_seeds() -> None:
    one, other = (Question(key, ASKED) for key in ("a", "b"))
    assert one.seed(1) != other.seed(1) != other.seed(2)
    assert one.seed(1) == Question("a", ASKED).seed(1)


def test_a_reply_is_read() -> None:
    message = {"role": "assistant", "content": "Because."}
    body = {"choices": [{"message": message, "finish_reason": "length"}], "usage": {"prompt_tokens": 4}}
    reply = wire.read_reply(json.dumps(body).encode(), ASKED)
    assert reply == wire.Reply("Because.", truncated=True, prompt_tokens=1, output_tokens=2, estimated=True)


def test_without_a_wish_for_a_schema_none_is_sent() -> None:
    assert "response_format" not in wire.payload("m", Question("a", ASKED), Wish(), wire.Manner())
