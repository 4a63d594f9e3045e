"""How deep HTML is nested and how much of it there is, measured on its text before any parser builds a tree of it.

Parsers of HTML never fail, and are quadratic where they meet the wrong thing: 20,000 nested `<div>` took resiliparse
20 s, and 2,000 paragraphs with one unclosed `<b>` each make two million elements.
"""

from __future__ import annotations

import re
from collections import Counter

#: Deepest nesting: browsers stop at 512 too.
DEPTH = 512
#: Most tags of a page: each costs some 300 bytes and 6 µs. The contents of Python's documentation, 2.5 MB, has 98,000.
TAGS = 400_000

#: A comment, an element whose content is no markup, or a tag: group 2 is "/" where it closes, group 3 its name. What is
#: not closed runs to the end, so that nothing is scanned twice.
_TAG = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|textarea|title|xmp|iframe|noembed|noframes)\b.*?(?:</\1|\Z)"
    r"""|<(/?)([a-z][^\s/>]*)(?:[^>"']|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))*+(?:>|\Z)""",
    re.DOTALL | re.IGNORECASE,
)
_VOID = frozenset(
    re.findall(r"\w+", "area base br col embed frame hr img input keygen link meta param source track wbr")
)
#: Elements whose end may be left out: the next of them ends the last, so they nest only by others that are counted.
_ENDED_BY_THE_NEXT = frozenset(
    re.findall(r"\w+", "body colgroup dd dt head html li option p tbody td tfoot th thead tr")
)
_UNCOUNTED = _VOID | _ENDED_BY_THE_NEXT


def measured(markup: str) -> tuple[int, int]:
    """The most elements that are open at once, at least, and the number of tags; counting stops beyond the limits."""
    opened: Counter[str] = Counter()
    now = most = num_tags = 0
    for tag in _TAG.finditer(markup):
        name = (tag[3] or "").lower()
        num_tags += bool(name)
        if num_tags > TAGS or most > DEPTH:
            break
        if not name or name in _UNCOUNTED:
            continue
        if not tag[2]:
            opened[name] += 1
            now += 1
            most = max(most, now)
        elif opened[name]:
            opened[name] -= 1
            now -= 1
    return most, num_tags
