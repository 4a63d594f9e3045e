"""Encoding faults and Unicode forms: `cafÃ©` becomes `café` again, and one letter is written one way.

Only what a wrong encoding did is undone (ftfy): quotes, ligatures, widths and entities stay as somebody wrote them.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import Field

from sartor.data.clean import Context, Outcome
from sartor.data.extra import needs
from sartor.data.finding.mend import Mended, mended
from sartor.types import Example, Frozen

SUMMARY = "repairs texts that were read in a wrong encoding, and writes all in one Unicode form"
REASONS = ("mojibake", "unicode_form")
SELECTS = False
WHOLE = False


class Config(Frozen):
    repair: bool = Field(default=True, description="undo a wrong encoding")
    form: Literal["NFC", "NFD", "NFKC", "NFKD", "as it is"] = Field(
        default="NFC", description="the Unicode form of all texts; NFKC also makes widths and ligatures equal"
    )


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    mend = functools.partial(_mend, config=config)
    return (mended(example, mend) for example in rows)


def _mend(text: str, config: Config) -> Mended:
    result = Mended(text)
    if text.isascii():  # nothing of either kind can be in it
        return result
    if config.repair:
        fixed, steps = needs("ftfy").fix_encoding_and_explain(text, _options())
        result.becomes(fixed, "mojibake", ", ".join(f"{step} {how}" for step, how in steps or ()))
    if config.form != "as it is":
        result.becomes(unicodedata.normalize(config.form, result.text), "unicode_form", config.form)
    return result


@functools.cache
def _options() -> Any:
    return needs("ftfy").TextFixerConfig(unescape_html=False, restore_byte_a0=True, uncurl_quotes=False)
