"""Every extractor keeps its contract: it says what it reads, alone claims it, and no bytes make it crash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor import extract, names
from sartor.extract import Extracted, NotTaken

EXTRACTORS = names.known(extract.KIND)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_it_says_what_it_reads(name: str) -> None:
    member = extract.extractor(name)
    assert member.SUMMARY and "\n" not in member.SUMMARY
    assert member.MEDIA_TYPES and all(kind == kind.lower() and "/" in kind for kind in member.MEDIA_TYPES)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in member.SUFFIXES)
    assert all(extract.media_type_of(f"x{suffix}") == member.MEDIA_TYPES[0] for suffix in member.SUFFIXES)


def test_no_two_claim_the_same() -> None:
    claims = [
        claim
        for name in EXTRACTORS
        for claim in (*extract.extractor(name).MEDIA_TYPES, *extract.extractor(name).SUFFIXES)
    ]
    assert len(set(claims)) == len(claims)


@pytest.mark.parametrize("name", EXTRACTORS)
@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
    charset=st.sampled_from(["", "latin-1", "x"]),
)
def test_bytes_give_text_or_a_reason_twice_the_same(name: str, content: bytes, charset: str) -> None:
    def outcome() -> Extracted | str:
        try:
            return extract.extractor(name).extract(content, charset)
        except NotTaken as error:
            assert error.reason.isidentifier() and error.detail
            return error.reason

    assert outcome() == outcome()
