"""The short name of a licence (SPDX) from an address, a field or the text itself; "" where nothing is recognised."""

from __future__ import annotations

import re

#: Words of licence texts that only one licence has, first match first: longer names stand before their beginnings.
_TEXTS = (
    ("AGPL-3.0", r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-3.0", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3"),
    ("LGPL-2.1", r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1"),
    ("GPL-3.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
    ("GPL-2.0", r"GNU GENERAL PUBLIC LICENSE\s+Version 2"),
    ("GFDL-1.3", r"GNU Free Documentation License\s+Version 1\.3"),
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("MPL-2.0", r"Mozilla Public License,? (?:version )?2\.0"),
    ("CC0-1.0", r"CC0 1\.0 Universal"),
    ("CC-BY-NC-SA-4.0", r"Attribution-NonCommercial-ShareAlike 4\.0 International"),
    ("CC-BY-NC-ND-4.0", r"Attribution-NonCommercial-NoDerivatives 4\.0 International"),
    ("CC-BY-NC-4.0", r"Attribution-NonCommercial 4\.0 International"),
    ("CC-BY-SA-4.0", r"Attribution-ShareAlike 4\.0 International"),
    ("CC-BY-ND-4.0", r"Attribution-NoDerivatives 4\.0 International"),
    ("CC-BY-4.0", r"Attribution 4\.0 International"),
    ("BSD-3-Clause", r"Redistribution and use in source and binary forms[\s\S]{0,2000}Neither the name"),
    ("BSD-2-Clause", r"Redistribution and use in source and binary forms"),
    ("ISC", r"Permission to use, copy, modify, and(?:/or)? distribute this software"),
    ("MIT", r"Permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("Unlicense", r"This is free and unencumbered software released into the public domain"),
)
#: Licence texts say what they are at their beginning, in characters.
_HEAD = 6000
_CREATIVE = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)", re.IGNORECASE)
_PUBLIC = re.compile(r"creativecommons\.org/publicdomain/zero/1\.0", re.IGNORECASE)
_NAMED = re.compile(r"(?:opensource|spdx)\.org/licen[cs]es?/([A-Za-z0-9.+-]+?)(?:\.html)?/?$")
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*)")
#: Names that files of licences have, without suffix.
FILES = frozenset({"license", "licence", "copying", "unlicense", "license-mit", "license-apache"})


def from_address(address: str) -> str:
    """The licence that an address stands for; the address itself where it is not known."""
    if found := _CREATIVE.search(address):
        return f"CC-{found[1].upper()}-{found[2]}"
    if _PUBLIC.search(address):
        return "CC0-1.0"
    found = _NAMED.search(address)
    return found[1] if found else address


def from_text(text: str) -> str:
    """The licence whose text this is, or that it names by its SPDX identifier."""
    head = text[:_HEAD]
    if found := _SPDX.search(head):
        return found[1]
    return next((name for name, words in _TEXTS if re.search(words, head, re.IGNORECASE)), "")


def is_licence_file(name: str) -> bool:
    """Is a file of this name (no folder before it) the text of a licence?"""
    stem = name.lower()
    for suffix in (".md", ".txt", ".rst"):
        stem = stem.removesuffix(suffix)
    return stem in FILES
