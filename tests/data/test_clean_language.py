"""The language filter."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sartor.data.finding.languages import language_of

from .rows import outcomes, reasons, talk, text

ENGLISH = "The heron stands in the shallow water and waits for a fish to come by."
GERMAN = "Der Reiher steht im flachen Wasser und wartet, bis ein Fisch vorbeikommt."
FRENCH = "Le héron se tient dans l'eau peu profonde et attend qu'un poisson passe."


def test_without_a_list_the_language_of_most_rows_stays() -> None:
    rows = [talk(answer, line=line) for line, answer in enumerate([GERMAN, GERMAN, ENGLISH, "ok"], start=1)]
    found = outcomes("language", rows)  # type: ignore[arg-type]
    assert [outcome.example is not None for outcome in found] == [True, True, False, True]
    assert found[2].entries[0].detail == "the answer is in en, kept are de"


def test_the_list_decides() -> None:
    assert reasons("language", talk(FRENCH), keep=["en", "fr"]) == []
    assert reasons("language", talk(FRENCH), keep=["en"]) == ["language"]
    assert reasons("language", talk(FRENCH, ENGLISH), keep=["en"], of="question") == []


def test_a_running_text_is_all_one_part() -> None:
    for part in ("question", "answer", "whole"):
        assert reasons("language", text(GERMAN), keep=["en"], of=part) == ["language"]
        assert reasons("language", text(GERMAN), keep=["de"], of=part) == []


def test_too_short_a_text_and_code_are_never_judged() -> None:
    for answer in ("Ja.", "42", "", "https://example.org/der/reiher/steht/im/wasser", f"```python\n# {GERMAN}\n```"):
        assert reasons("language", talk(answer), keep=["en"]) == []


def test_what_is_no_code_is_refused() -> None:
    for code in ("German", "EN", "e"):
        with pytest.raises(ValidationError, match="no language code"):
            outcomes("language", [], keep=[code])


def test_no_rows_give_none() -> None:
    assert outcomes("language", []) == []


def test_language_of() -> None:
    assert [language_of(written) for written in (ENGLISH, GERMAN, FRENCH)] == ["en", "de", "fr"]
    assert language_of("中文维基百科是维基百科协作计划的中文版本") == "zh"
    assert language_of(ENGLISH, surest=1.1) == ""
    assert language_of(f"{ENGLISH}\n\n" * 50) == "en"
