"""Encoding faults and Unicode forms."""

from __future__ import annotations

import pytest

from .rows import answer, outcomes, reasons, talk


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("cafÃ© naÃ¯ve", "café naïve"),
        ("itâ€™s â€œfineâ€\x9d", "it’s “fine”"),
        ("MÃ¼nchen ist schÃ¶n", "München ist schön"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
    ],
)
def test_wrong_encodings_are_undone(broken: str, whole: str) -> None:
    assert answer("encoding", talk(broken)) == whole
    assert reasons("encoding", talk(broken)) == ["mojibake"]


@pytest.mark.parametrize(
    "written", ["“curly” ‘quotes’ – dash …", "ﬁne ﬂow", "Ｆｕｌｌ", "&amp; &eacute;", "café", "日本語", "x² ½ ™"]
)
def test_what_somebody_wrote_stays(written: str) -> None:
    assert reasons("encoding", talk(written)) == []


def test_one_letter_is_written_one_way() -> None:
    row = talk("cafe\u0301")
    assert answer("encoding", row) == "caf\u00e9"
    assert reasons("encoding", row) == ["unicode_form"]
    assert answer("encoding", row, form="as it is") == "cafe\u0301"
    assert answer("encoding", talk("ﬁne"), form="NFKC") == "fine"
    assert answer("encoding", talk("cafÃ©"), repair=False) == "cafÃ©"


def test_the_ledger_says_how_but_not_what() -> None:
    (outcome,) = outcomes("encoding", [talk("geheim cafÃ©")])
    (entry,) = outcome.entries
    assert (entry.field, entry.detail) == ("messages[1].content", "encode latin-1, decode utf-8")
