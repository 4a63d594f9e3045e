"""What keys and tokens look like. The keys are made up, and put together here so that no scanner is alarmed."""

from __future__ import annotations

import random
import string

import pytest

from sartor.data.finding.secret_shapes import SHAPES, entropy, is_random, secrets_in

_RNG = random.Random(5)


def drawn(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(_RNG.choice(alphabet) for _ in range(length))


HEX = "0123456789abcdef"
PEM = "-----BEGIN RSA PRIVATE " + "KEY-----\n" + drawn(64) + "\n" + drawn(64) + "\n-----END RSA PRIVATE KEY-----"
KEYS = (
    ("AKIA" + drawn(16, string.ascii_uppercase + "234567"), "api_key"),
    ("ghp" + "_" + drawn(36), "token"),
    ("github" + "_pat_" + drawn(82), "token"),
    ("AIza" + drawn(35), "api_key"),
    ("sk" + "_live_" + drawn(24), "api_key"),
    ("sk" + "-proj-" + drawn(48), "api_key"),
    ("sk" + "-ant-api03-" + drawn(80), "api_key"),
    ("hf" + "_" + drawn(34, string.ascii_letters), "token"),
    ("xoxb" + "-" + drawn(12, string.digits) + "-" + drawn(24), "token"),
    ("glpat" + "-" + drawn(20), "token"),
    ("npm" + "_" + drawn(36), "token"),
    ("SG." + drawn(22) + "." + drawn(43), "api_key"),
    ("key-" + drawn(32, HEX), "api_key"),
    ("eyJ" + drawn(30) + ".eyJ" + drawn(60) + "." + drawn(43), "token"),
    (drawn(9, "123456789") + ":AA" + drawn(33), "token"),
    (PEM, "private_key"),
)


def kinds(text: str) -> list[str]:
    return [span.kind for span in secrets_in(text)]


@pytest.mark.parametrize(("value", "kind"), KEYS, ids=[value[:8] for value, _ in KEYS])
def test_keys_are_found_whole(value: str, kind: str) -> None:
    text = f"x = {value}, y"
    spans = [span for span in secrets_in(text) if span.kind == kind]
    assert text[spans[0].start : spans[0].end] == value


@pytest.mark.timeout(20)  # followed to the end from each `eyJ`, this takes minutes
def test_a_long_row_of_beginnings_of_tokens_is_none() -> None:
    assert kinds("eyJaaaaaaaa-" * 60_000 + ".eyJ") == []


def test_a_token_may_stand_after_a_dash() -> None:
    token = next(value for value, _ in KEYS if value.startswith("eyJ"))
    for before in ("-", "Bearer ", "a=", "\n- ", "x."):
        (span,) = secrets_in(before + token)
        assert (span.start, span.end) == (len(before), len(before + token))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('password = "hX7kq2vLp9"', "hX7kq2vLp9"),
        ("DB_PASSWORD=t0p-s3crEt_91xZ", "t0p-s3crEt_91xZ"),
        ('{"api_key": "9f8a7b6c5d4e3f2a"}', "9f8a7b6c5d4e3f2a"),
        ("postgres://ada:kR8v2mQ1@db.internal:5432/x", "kR8v2mQ1"),
        ("client-secret: 'aZ81-kk29-LLx0'", "aZ81-kk29-LLx0"),
    ],
)
def test_named_secrets_are_found(text: str, secret: str) -> None:
    assert secret in [text[span.start : span.end] for span in secrets_in(text)]


@pytest.mark.parametrize(
    "text",
    [
        "password = os.environ['DB_PASSWORD']",
        'password = "your-password-1"',
        "the password is hunter",
        "token: str = get_token2()",
        "max_tokens=2048, num_tokens = 12345678",
        "key = value",
        'api_key = "YOUR_API_KEY_123"',
        "secret: ${SECRET_1}",
        "sk-learn is a library",
        "https://host:8080/path",
        "http://user:password@host",
        "a sha 3f786850e387550fdab836ed7e6dc881de23001b",
        "AKIA is a prefix",
        "eyJhbGciOiJIUzI1NiJ9",
        "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----",
        "hf_token",
        "keyboard: qwertz123",
        "token = Sam3Tracker(x)",
        "token_ids_0=token_ids_0",
    ],
)
def test_what_looks_like_one_is_left_alone(text: str) -> None:
    assert kinds(text) == []


def test_randomness() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    assert is_random("hX7kq2vLp9")
    assert not is_random("passwordpassword")
    assert not is_random("11111111a")


def test_the_word_of_a_shape_stands_in_its_keys() -> None:
    for value, _ in KEYS:
        assert any(shape.word in value and shape.pattern.search(value) for shape in SHAPES), value
