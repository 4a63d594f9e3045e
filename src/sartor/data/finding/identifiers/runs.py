"""Where digits stand close together: found once in a text, for all kinds that are made of them."""

from __future__ import annotations

import functools
import re

#: The search jumps from digit to digit; marks and spaces may stand between, and no letter before.
_RUN = re.compile(r"[0-9](?<!\w.)[0-9 ()./\u00a0–-]{5,80}(?<=[0-9])")
_NO_MARKS = dict.fromkeys(map(ord, " ()./\u00a0–-"))
_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")  # an IP address: most runs of a log are
_FEWEST = 6  # digits


@functools.lru_cache(maxsize=1)
def runs_of(text: str) -> tuple[tuple[int, int, int], ...]:
    """Start, end and number of digits of each run of six digits or more that is no IP address."""
    return tuple(
        (*match.span(), digits)
        for match in _RUN.finditer(text)
        if (digits := len(match[0].translate(_NO_MARKS))) >= _FEWEST and _QUAD.fullmatch(match[0]) is None
    )
