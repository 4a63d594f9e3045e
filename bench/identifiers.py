"""Identifiers to plant in real mail, and what looks like them: written from the public rules, not from our recognisers.

Each function draws one value; words that belong before it end with `|`. Check digits are computed here once more, and
the numbering plans are reduced to a few area codes and ranges that are in use.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Draw = Callable[[random.Random], str]

NAMES = (
    "anna",
    "ben.keller",
    "c-novak",
    "d_ortiz",
    "elif",
    "fatima.h",
    "greta99",
    "hugo.lindqvist",
    "ines+news",
    "j.o.brien",
    "kofi",
    "li.wei",
    "m.rossi",
)
DOMAINS = (
    "gmx.de",
    "gmail.com",
    "northwind.co.uk",
    "uni-bonn.de",
    "acme.io",
    "free.fr",
    "mail.ru",
    "posta.com.tr",
    "corp.internal-tools.net",
)
BANKS = {
    "DE": "n18",
    "GB": "a4n14",
    "FR": "n10x11n2",
    "ES": "n20",
    "NL": "a4n10",
    "CH": "n5x12",
    "AT": "n16",
    "IT": "a1n10x12",
    "PL": "n24",
    "SE": "n20",
    "NO": "n11",
    "BE": "n12",
}
AMERICAN_AREAS = ("212", "415", "312", "617", "206", "303", "404", "512", "702", "713", "718", "786", "818", "917")
AMERICAN = (
    "({0}) {1}-{2}",
    "{0}-{1}-{2}",
    "{0}.{1}.{2}",
    "{0} {1} {2}",
    "+1 {0} {1} {2}",
    "+1-{0}-{1}-{2}",
    "1-{0}-{1}-{2}",
    "+1 ({0}) {1}-{2}",
    "Phone: |{0}{1}{2}",
    "call |{0}{1}{2}",
)
#: Formats of other countries: `#` is a digit.
ABROAD = (
    "020 7### ####",
    "020 8### ####",
    "+44 20 7### ####",
    "+44 (0)20 7### ####",
    "07771 ######",
    "+44 7771 ######",
    "(0161) 4## ####",
    "0044 7771 ######",
    "030 2#######",
    "030/2######",
    "+49 30 2#######",
    "+49 (0)89 2#######",
    "0171-2######",
    "0171 2######",
    "0049 171 2######",
    "(089) 2#######",
    "+49-176-2#######",
    "06 12 ## ## ##",
    "06.12.##.##.##",
    "+33 6 12 ## ## ##",
    "+33 (0)1 42 ## ## ##",
    "01-42-##-##-##",
    "0033 1 42 ## ## ##",
    "+34 612 ### ###",
    "+34 91 2## ## ##",
    "Tel. |612 ## ## ##",
    "móvil: |612 ### ###",
    "+39 347 ### ####",
    "06 69## ####",
    "cell. |347 ### ####",
    "+41 44 668 ## ##",
    "+41 79 3## ## ##",
    "+43 1 58858 ###",
    "+31 20 55# ####",
    "+353 1 677 ####",
    "+91 98200 #####",
    "+55 11 9#### ####",
    "+86 138 0013 ####",
    "+81 3 3### ####",
    "+61 2 9### ####",
    "+48 22 8## ## ##",
)
CARDS = {
    "4": 16,
    "51": 16,
    "55": 16,
    "2221": 16,
    "34": 15,
    "37": 15,
    "6011": 16,
    "3056": 14,
    "36": 14,
    "3530": 16,
    "62": 16,
}


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def filled(rng: random.Random, shape: str) -> str:
    return "".join(rng.choice("0123456789") if mark == "#" else mark for mark in shape)


def e_mail(rng: random.Random) -> str:
    address = f"{rng.choice(NAMES)}{rng.choice(['', '', str(rng.randint(1, 99))])}@{rng.choice(DOMAINS)}"
    return rng.choice(
        [address, address, address.upper(), address.replace("@", " (at) "), address.replace("@", " [at] ")]
    )


def phone(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return filled(rng, rng.choice(ABROAD))
    exchange = f"{rng.randint(2, 9)}{rng.randint(2, 9)}{rng.randint(0, 9)}"
    return rng.choice(AMERICAN).format(rng.choice(AMERICAN_AREAS), exchange, digits(rng, 4))


def iban(rng: random.Random) -> str:
    country = rng.choice(sorted(BANKS))
    body, shape = "", BANKS[country]
    while shape:
        kind, rest = shape[0], shape[1:]
        length = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        shape = rest[len(length) :]
        alphabet = {"n": "0123456789", "a": "ABCDEFGHKLMNOPRSTUW", "x": "0123456789ABCDEFGH"}[kind]
        body += "".join(rng.choice(alphabet) for _ in range(int(length)))
    check = 98 - int("".join(str(int(mark, 36)) for mark in f"{body}{country}00")) % 97
    plain = f"{country}{check:02d}{body}"
    spaced = " ".join(plain[start : start + 4] for start in range(0, len(plain), 4))
    return rng.choice([plain, spaced, spaced, plain.lower()])


def card(rng: random.Random) -> str:
    first = rng.choice(sorted(CARDS))
    body = first + digits(rng, CARDS[first] - len(first) - 1)
    total = 0
    for index, mark in enumerate(reversed(body)):
        number = int(mark) * (1 if index % 2 else 2)
        total += number - 9 if number > 9 else number
    plain = f"{body}{-total % 10}"
    cuts = (4, 8, 12, 16) if len(plain) == 16 else (4, 10, len(plain))
    parts = [plain[start:end] for start, end in zip((0, *cuts[:-1]), cuts, strict=True)]
    return rng.choice([plain, " ".join(parts), "-".join(parts)])


def ip_address(rng: random.Random) -> str:
    if rng.random() < 0.3:
        groups = [f"{rng.randint(0, 65535):x}" for _ in range(rng.choice([2, 4, 6]))]
        start = rng.choice(["2a00", "2600", "2001:41d0"])
        if len(groups) == 6:
            return ":".join([*([start, "0"] if len(start) == 4 else [start]), *groups])
        return ":".join([start, *groups[:-1]]) + "::" + groups[-1]
    first = rng.choice([5, 23, 46, 62, 80, 91, 109, 151, 185, 193, 203, 212])
    while True:
        rest = [rng.randint(0, 255) for _ in range(3)]
        if first != 203 or rest[:2] != [0, 113]:
            return ".".join(map(str, [first, *rest]))


def national_id(rng: random.Random) -> str:
    return rng.choice([_american, _british, _spanish, _swiss, _brazilian, _swedish])(rng)


def _american(rng: random.Random) -> str:
    area = rng.choice([rng.randint(1, 665), rng.randint(667, 899)])
    return f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def _british(rng: random.Random) -> str:
    plain = f"{rng.choice(['AB', 'CE', 'JG', 'PW', 'SX'])}{digits(rng, 6)}{rng.choice('ABCD')}"
    return rng.choice([plain, f"{plain[:2]} {plain[2:4]} {plain[4:6]} {plain[6:8]} {plain[8]}"])


def _spanish(rng: random.Random) -> str:
    number = rng.randint(10_000_000, 99_999_999)
    return f"{number}{rng.choice(['', '-'])}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def _swiss(rng: random.Random) -> str:
    body = "756" + digits(rng, 9)
    total = sum(int(mark) * (3 if index % 2 else 1) for index, mark in enumerate(body))
    plain = f"{body}{-total % 10}"
    return f"{plain[:3]}.{plain[3:7]}.{plain[7:11]}.{plain[11:]}"


def _brazilian(rng: random.Random) -> str:
    plain = digits(rng, 9)
    for weight in (10, 11):
        rest = sum(int(mark) * (weight - index) for index, mark in enumerate(plain)) % 11
        plain += str(0 if rest < 2 else 11 - rest)
    return f"{plain[:3]}.{plain[3:6]}.{plain[6:9]}-{plain[9:]}"


def _swedish(rng: random.Random) -> str:
    body = f"{rng.randint(40, 99):02d}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{digits(rng, 3)}"
    total = sum(sum(map(int, str(int(mark) * (1 if index % 2 else 2)))) for index, mark in enumerate(body))
    return f"{body[:6]}-{body[6:]}{-total % 10}"


KINDS: dict[str, Draw] = {
    "e_mail": e_mail,
    "phone": phone,
    "iban": iban,
    "card": card,
    "ip_address": ip_address,
    "national_id": national_id,
}

#: What looks like an identifier and is none: `#` a digit, `%` a hexadecimal one.
LOOKALIKES = (
    "Order #1002######",
    "order no. 45########",
    "invoice 2024-#######",
    "SKU 40063813339##",
    "ISBN 978-3-16-148410-0",
    "ISSN 1470-1448",
    "version 2.4.1.1#",
    "v10.0.19041.12##",
    "Mozilla/5.0 (build 4.7.8.#)",
    "section 3.2.1.#",
    "2024-05-1# 12:34:5#",
    "1#/05/2023",
    "05.1#.2019",
    "20240517123456",
    "2024-05-17T08:1#:00Z",
    "17 05 2024",
    "%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%",
    "%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%",
    "%%%%%%%%-%%%%-4%%%-a%%%-%%%%%%%%%%%%",
    "Message-ID: <2024051#.12345.ABC@mail.host.net>",
    "In-Reply-To: <1029944441.39#.TMDA@deepeddy.vircio.com>",
    "#ff00%%",
    "1,299,0##.00",
    "USD 50.000.000,##",
    "52.52000#, 13.40500#",
    "1Z999AA101234567##",
    "10299444##",
    "pid 168## 1.0 0.2 1824 540",
    "3.141592653589793#",
    "http://shop.net/item?id=96658620917094##",
    "bug 1234567#",
    "logo@2x.png",
    "npm i lodash@4.17.2#",
    "@handle_#",
    "root@localhost",
    "000-12-34##",
    "10.0.0.1#",
    "255.255.255.0",
    "127.0.0.1",
    "192.168.1.2#",
    "00:1b:44:11:3a:b#",
    "std::vector<int>",
    "FL 33710-391#",
    "1997-2002",
    "scores 21-15, 19-21, 15-1#",
    "tracking 9400 1000 0000 0000 0000 ##",
    "DE00 1234 5678 1234 5678 ##",
    "4111 1111 1111 1112",
    "0x%%%%%%%%",
    "200#-2010",
    "1:30-2:45",
    "call stack at 0040#### in main",
    "ratio 16:9:4",
    "#### / ####",
    "serial 7##-####-##-A",
    "7.0.100-150300.7.1#.1",
    "model 555-12#-X",
    "flight 800 555 at 12:30",
    "room 020 7, floor 03",
    "5 000 000 people",
    "12 345 678,90 €",
    "2 + 2 = 4, 12345678 * 2",
    "page 101-1#5",
    "git@github.com:org/repo.git",
)


def lookalike(rng: random.Random) -> str:
    shape = rng.choice(LOOKALIKES)
    return "".join(rng.choice("0123456789abcdef") if mark == "%" else mark for mark in filled(rng, shape))
