"""The addresses in a sitemap: XML, an index of others, plain lines, each also packed with gzip.

No XML parser is needed, so none can be attacked: an address stands between `<loc>` and `</loc>`.
"""

from __future__ import annotations

import gzip
import html
import io
import re
import zlib

from sartor.extract import NotTaken, over

#: What the protocol allows for one sitemap, unpacked.
SITEMAP_BYTES = 50 * 2**20
SITEMAP_ADDRESSES = 50_000
#: Sitemaps of one site that are read.
SITEMAPS = 100

#: Group 1 as it is, group 2 with entities. White space is taken once and never given back: a server that writes twenty
#: thousand spaces gets no more of our time than for anything else.
_LOC = re.compile(r"<(?:\w+:)?loc\s*+>\s*+(?:<!\[CDATA\[\s*+([^<]{1,4200}?)\]\]>|([^<]{1,4200}))")
_INDEX = re.compile(r"<(?:\w+:)?sitemapindex[\s>]")
_GZIP = b"\x1f\x8b"


def addresses(content: bytes) -> tuple[list[str], bool]:
    """The addresses, and whether they are of sitemaps instead of pages.

    Raises:
        NotTaken: a limit is met, or it is damaged.
    """
    if content.startswith(_GZIP):
        content = gunzipped(content, "sitemap_bytes", SITEMAP_BYTES)
    if len(content) > SITEMAP_BYTES:
        raise over("sitemap_bytes", len(content), SITEMAP_BYTES, "bytes")
    text = content.decode("utf-8-sig", "replace")
    if not text.lstrip().startswith("<"):
        found = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        found = [(plain or html.unescape(marked)).strip() for plain, marked in _LOC.findall(text)]
    if len(found) > SITEMAP_ADDRESSES:
        raise over("sitemap_addresses", len(found), SITEMAP_ADDRESSES, "addresses")
    return found, bool(_INDEX.search(text[:10_000]))


def gunzipped(content: bytes, limit: str, most: int) -> bytes:
    """What was packed with gzip, unless that is more than the limit of that name.

    Raises:
        NotTaken: it is, or the bytes are damaged.
    """
    try:
        made = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise NotTaken("damaged", f"not what gzip packs: {error}") from error
    if len(made) > most:
        raise over(limit, len(made), most, "bytes or more, unpacked")
    return made
