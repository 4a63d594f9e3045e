"""Licences by address, by text and by the names of files."""

from __future__ import annotations

import pytest

from sartor.extract.licences import from_address, from_text, is_licence_file


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/deed.de", "CC-BY-NC-SA-4.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://opensource.org/license/MIT/", "MIT"),
        ("https://spdx.org/licenses/Apache-2.0.html", "Apache-2.0"),
        ("https://example.org/terms", "https://example.org/terms"),
    ],
)
def test_addresses(address: str, name: str) -> None:
    assert from_address(address) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("   Apache License\n                           Version 2.0, January 2004", "Apache-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "GPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February", "LGPL-2.1"),
        ("Redistribution and use in source and binary forms, with … Neither the name of", "BSD-3-Clause"),
        ("Redistribution and use in source and binary forms, with …", "BSD-2-Clause"),
        ("// SPDX-License-Identifier: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("All rights reserved.", ""),
    ],
)
def test_texts(text: str, name: str) -> None:
    assert from_text(text) == name


def test_names() -> None:
    assert all(map(is_licence_file, ("LICENSE", "Licence.md", "COPYING", "LICENSE-MIT", "license.txt")))
    assert not is_licence_file("licensing.md")
