"""What keys and tokens look like: the prefixes and lengths that their issuers document, so that leaked ones are found.

Each shape has a word that stands in every key of it: where the word is missing, the expression is not tried.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sartor.data.finding.identifiers import Span


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of secret. The expression's group `secret`, where it has one, is what is secret of it."""

    kind: str
    word: str
    pattern: re.Pattern[str]


def _shape(kind: str, word: str, pattern: str) -> Shape:
    return Shape(kind, word, re.compile(pattern))


_AFTER = r"(?![A-Za-z0-9_-])"
_PEM = (
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?!-----BEGIN)(?s:.)){1,20000}?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)"
)
_PUTTY = r"PuTTY-User-Key-File-\d: (?:(?!PuTTY-User)(?s:.)){1,20000}?Private-MAC: [0-9a-f]+"
#: JSON web tokens. None starts inside of a run of its characters: each `-eyJ` of one would be followed to its end.
_JWT = r"\b(?<![\w-]-)eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
#: What services for language models give out.
_MODEL_KEY = r"\bsk-(?:proj-|svcacct-|admin-|ant-(?:api|admin)\d\d-|or-v1-)?[A-Za-z0-9_-]{32,}"
SHAPES = (
    _shape("private_key", "PRIVATE KEY", _PEM),
    _shape("private_key", "PuTTY-User-Key-File", _PUTTY),
    _shape("token", ".eyJ", _JWT),
    _shape("api_key", "AKIA", rf"\bAKIA[0-9A-Z]{{16}}{_AFTER}"),  # Amazon, long-term
    _shape("api_key", "ASIA", rf"\bASIA[0-9A-Z]{{16}}{_AFTER}"),  # Amazon, temporary
    _shape("api_key", "AIza", rf"\bAIza[0-9A-Za-z_-]{{35}}{_AFTER}"),  # Google
    _shape("api_key", "GOCSPX-", rf"\bGOCSPX-[0-9A-Za-z_-]{{28}}{_AFTER}"),  # Google OAuth
    _shape("token", "ya29.", r"\bya29\.[0-9A-Za-z_-]{30,}"),  # Google, access
    _shape("token", "gh", rf"\bgh[pousr]_[0-9A-Za-z]{{36,251}}{_AFTER}"),  # GitHub
    _shape("token", "github_pat_", rf"\bgithub_pat_[0-9A-Za-z_]{{60,}}{_AFTER}"),
    _shape("token", "glpat-", r"\bglpat-[0-9A-Za-z_-]{20,}"),  # GitLab
    _shape("token", "xox", r"\bxox[abeprs]-[0-9A-Za-z-]{10,}"),  # Slack
    _shape("token", "hooks.slack.com", r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/+]{30,}"),
    _shape("api_key", "_live_", rf"\b[spr]k_live_[0-9A-Za-z]{{16,}}{_AFTER}"),  # Stripe
    _shape("api_key", "sk-", _MODEL_KEY),
    _shape("token", "hf_", rf"\bhf_[A-Za-z]{{34,}}{_AFTER}"),  # Hugging Face
    _shape("token", "npm_", rf"\bnpm_[A-Za-z0-9]{{36}}{_AFTER}"),
    _shape("token", "pypi-", r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    _shape("token", "dop_v1_", rf"\bdop_v1_[a-f0-9]{{64}}{_AFTER}"),  # DigitalOcean
    _shape("api_key", "SG.", rf"\bSG\.[A-Za-z0-9_-]{{22}}\.[A-Za-z0-9_-]{{43}}{_AFTER}"),  # SendGrid
    _shape("api_key", "key-", rf"\bkey-[0-9a-f]{{32}}{_AFTER}"),  # Mailgun
    _shape("api_key", "SK", rf"\bSK[0-9a-f]{{32}}{_AFTER}"),  # Twilio
    _shape("token", "shp", rf"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{{32}}{_AFTER}"),  # Shopify
    _shape("token", "hvs.", r"\bhvs\.[A-Za-z0-9_-]{24,}"),  # Vault
    _shape("token", ":AA", rf"\b\d{{8,10}}:AA[A-Za-z0-9_-]{{33}}{_AFTER}"),  # Telegram
    _shape("api_key", "AccountKey=", r"AccountKey=(?P<secret>[A-Za-z0-9+/]{86}==)"),  # Azure
    _shape("password", "://", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{1,64}:(?P<secret>[^\s:/@\"'<>]{3,128})@[\w.-]+"),
)  # fmt: skip

#: `api_key = "…"`, `"password": "…"`, `--token …`: named as a secret, and as random as one.
_NAMED = re.compile(
    r"(?:passw(?:or)?d|passwort|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key"
    r"|credentials?)[\w-]{0,20}[\"']?\s{0,3}(?:=>|:=|[:=])\s{0,3}"
    r"(?P<quote>[\"'`]?)(?P<secret>[^\s\"'`,;<>(){}\[\]]{8,200})(?P=quote)",
)
_NAMES = ("pass", "pwd", "secret", "token", "key", "credential")
#: What stands where a secret shall be filled in.
_BLANK = re.compile(
    r"token|secret|passw|your|example|change|placeholder|xxx|\*\*\*|\.\.\.|…|dummy|test|sample|insert|redacted|env\b|environ|config|none"
    r"|null|true|false|undefined|\$\{?|%[A-Z]|process\.|os\.|get\w*|self\.|this\.|settings|args|params|request|^[a-z]+(?:[_.-][a-z]+)*$",
    re.IGNORECASE,
)
#: Bits a character: English words have about 3 or fewer at this length, random letters and digits about 3.5 and more.
_FEWEST_BITS = 3.0


def secrets_in(text: str) -> Iterator[Span]:
    """Where secrets stand, by the issuers' shapes and by their names; they may overlap."""
    for shape in SHAPES:
        if shape.word not in text:
            continue
        for match in shape.pattern.finditer(text):
            group = "secret" if "secret" in shape.pattern.groupindex else 0
            if shape.kind != "password" or not _BLANK.search(match["secret"]):
                yield Span(*match.span(group), shape.kind)
    lower = text.lower()
    if not any(name in lower for name in _NAMES):
        return
    for match in _NAMED.finditer(lower if len(lower) == len(text) else text):
        called = text[match.end("secret") : match.end("secret") + 1] == "("  # a name of code, not a value
        if not called and is_random(text[slice(*match.span("secret"))]):
            yield Span(*match.span("secret"), "password")


def is_random(value: str) -> bool:
    """Whether a value looks drawn: letters with digits, no word that asks to be filled in, and much entropy."""
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and not _BLANK.search(value) and entropy(value) >= _FEWEST_BITS


def entropy(value: str) -> float:
    """Bits a character, by the value's own frequencies."""
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
