"""Which differences between two texts a metric overlooks, and which scripts write without spaces."""

from __future__ import annotations

import unicodedata

from pydantic import Field

from sartor.types import Frozen

#: Scripts that put no space between words, as ranges for a regular expression's character class: Thai and Lao,
#: Tibetan, Myanmar, Khmer, 々 and 〇, kana, Han (with extension A, compatibility, supplementary), half-width katakana.
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af\uff66-\uff9f"
)


class Normalisation(Frozen):
    """What is made equal before two texts are compared, beyond Unicode form and outer white space."""

    ignore_case: bool = Field(default=False, description="treat capital and small letters as equal")
    ignore_space: bool = Field(default=False, description="treat every run of white space as one space")


#: For metrics that compare words rather than characters.
WORDS = Normalisation(ignore_case=True, ignore_space=True)


def normalised(text: str, how: Normalisation) -> str:
    """The text in Unicode NFC without outer white space, and with what `how` overlooks made equal."""
    text = unicodedata.normalize("NFC", text)
    if how.ignore_case:
        text = unicodedata.normalize("NFC", text.casefold())  # folding can take a composed character apart
    return " ".join(text.split()) if how.ignore_space else text.strip()
