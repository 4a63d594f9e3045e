"""E-mail addresses, also those written as `jane (at) example (dot) org`.

Message ids look the same and name no person: they are told by the header before them, or by their shape. Addresses of
domains that belong to nobody (RFC 2606, RFC 6761) stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sartor.data.finding.identifiers.draw import Draw

SUMMARY = "e-mail addresses"

#: RFC 5322's atext and the dot. RFC 5321 allows a local part 64 of them.
_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
_LONGEST_LOCAL = 64
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?:[^\W\d_]{{2,24}}|xn--[a-z0-9-]{{2,59}})(?![\w-])", re.IGNORECASE)
_AT = r"\s{0,2}[\[({<]\s?(?:at|@|ät)\s?[\])}>]\s{0,2}"
_DOT = r"(?:\.|\s{0,2}[\[({<]\s?(?:dot|punkt|\.)\s?[\])}>]\s{0,2})"
_SPELT = re.compile(rf"[a-z0-9][\w.+-]{{0,63}}{_AT}(?:{_LABEL}{_DOT}){{1,4}}[a-z]{{2,24}}\b", re.IGNORECASE)
_MAYBE_SPELT = re.compile(r"[\[({<]\s?(?:at|@|ät)\s?[\])}>]", re.IGNORECASE)

#: Names that never reach anybody, and endings of file names that are no top-level domains (`logo@2x.png`).
_NOBODY = frozenset({"example", "invalid", "test", "localhost", "local", "localdomain"})
_NOBODYS = (".example.com", ".example.org", ".example.net")
_SUFFIXES = frozenset({
    "png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico", "js", "ts", "jsx", "tsx", "css", "html", "htm", "json",
    "xml", "txt", "pdf", "php", "exe", "dll",
})  # fmt: skip
_IN_VAIN = _NOBODY | _SUFFIXES
#: What stands before a message id: its header, folded or not, or the words of a reply; RFC 2392's URLs.
_ID_WORDS = ("-id:", "in-reply-to:", "references:", "message ", "article ", "cid:", "mid:", "news:")
_ID_BEFORE = re.compile(
    r"(?:-id|in-reply-to|references):[^\n<]{0,80}(?:<[^<>\s]*>[\s>]*)*<?$"
    r"|(?:in|your|news) message\s{1,3}<$|article\s{1,3}<$|\b[cm]id:$|\bnews:<?$"
)
_KEYS = frozenset({"to", "email", "mail", "cc", "from", "user", "address", "e"})
_LOOK_BACK = 600  # characters: a header of references, folded
_MOSTLY = 0.6  # of a local part are digits


def find(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    at = text.find("@")
    while at >= 0:
        if (place := _around(text, at)) is not None:
            yield place
            at = place[1]
        at = text.find("@", at + 1)
    if _MAYBE_SPELT.search(text):
        yield from (match.span() for match in _SPELT.finditer(text))


def canonical(value: str) -> str:
    """In small letters: no mail system tells addresses apart by case."""
    local, domain = _parts(value.casefold())
    return f"{local}@{domain}"


def stand_in(value: str, draw: Draw) -> str:
    """`kfwqa.rtz@bqzmnk.example`. Six letters at least, so that short names do not fall together."""
    local, _ = _parts(value)
    shaped = draw.like(local)
    return f"{shaped}{draw.letters(max(0, 6 - len(shaped)))}@{draw.letters(6)}.example"


def _around(text: str, at: int) -> tuple[int, int] | None:
    """The address around an `@`, if it is one."""
    before = text[max(0, at - _LONGEST_LOCAL) : at]
    local = _trimmed(before[len(before.rstrip(_LOCAL)) :])
    if not local:
        return None
    domain = _DOMAIN.match(text, at + 1)
    if domain is None:
        return None
    name = domain[0].lower()
    if name.rpartition(".")[2] in _IN_VAIN or f".{name}".endswith(_NOBODYS):
        return None
    start = at - len(local)
    if local == "git" and text[domain.end() : domain.end() + 1] == ":":  # git@host:path is a place, not a person
        return None
    return None if _is_message_id(text, start, domain.end(), local) else (start, domain.end())


def _trimmed(run: str) -> str:
    """The local part at the end of a run of its characters: after what encloses it, or a key or path before it."""
    if run.startswith("//") and not {"/", "?"} & set(
        run[2:]
    ):  # of a URL, http://name@host: who logs in, not who is written to
        return ""
    if run.replace(".", "").isalnum():
        run = run.lstrip(".")
        return "" if run.endswith(".") or ".." in run else run
    for mark in "/?&|{}`":
        run = run.rpartition(mark)[2]
    key, equals, value = run.rpartition("=")
    # `to=jane` names jane; but `bounce-jane=mail.org` before an @ is the address of a list that holds another one.
    if equals and ("." not in value or key in _KEYS):
        run = value
    run = run.lstrip(".'*-!#$%^~+=").rstrip("'")
    return "" if run.endswith(".") or ".." in run else run


def _is_message_id(text: str, start: int, end: int, local: str) -> bool:
    digits = sum(map(str.isdigit, local))
    if digits < 3:
        return False
    enclosed = text[start - 1 : start] == "<" and text[end : end + 1] == ">"
    # 1029944441.398.TMDA, 20020822131446.GA14203, 3D63F2A1.5060709: mostly digits, with a mark in between.
    if enclosed and digits >= 8 and digits >= _MOSTLY * len(local) and not local.isalnum():
        return True
    if text[start - 1 : start] not in ("<", ":"):
        return False
    before = text[max(0, start - _LOOK_BACK) : start].lower()
    return any(word in before for word in _ID_WORDS) and _ID_BEFORE.search(before) is not None


def _parts(value: str) -> tuple[str, str]:
    plain = re.sub(_AT, "@", value, flags=re.IGNORECASE)
    local, _, domain = plain.rpartition("@")
    return local, re.sub(_DOT, ".", domain, flags=re.IGNORECASE)
