"""Which texts are long enough for their language to be told."""

from __future__ import annotations

import pytest

from sartor.data.finding.languages import FEWEST_LETTERS, language_of


@pytest.mark.parametrize(
    "text", ["", "x" * (FEWEST_LETTERS - 1), "123 456 789 000 111 222 333", "a@b.de http://x.y/zzzzzzzzzzzzzzzzzzzzzz"]
)
def test_too_little_to_tell(text: str) -> None:
    assert language_of(text) == ""


def test_scripts_with_a_sign_for_a_word_need_fewer() -> None:
    assert language_of("これは日本語の文です") == "ja"
    assert language_of("한국어로 쓰인 문장입니다") == "ko"


def test_code_is_no_language() -> None:
    assert (
        language_of("Voici le programme que vous cherchez : ```python\nprint('the quick brown fox jumps over')\n```")
        == "fr"
    )
