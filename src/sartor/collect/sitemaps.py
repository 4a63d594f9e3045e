"""The addresses in a sitemap: XML, an index of others, plain lines, each also packed with gzip.

No XML parser is needed, so none can be attacked: an address stands between `<loc>` and `</loc>`.
"""

from __future__ import annotations

import html
import re
import zlib

from sartor.extract import NotTaken, over

#: What the protocol allows for one sitemap, unpacked.
SITEMAP_BYTES = 50 * 2**20
SITEMAP_ADDRESSES = 50_000
#: Sitemaps of one site that are read.
SITEMAPS = 100

_LOC = re.compile(r"<(?:\w+:)?loc\s*>\s*(?:<!\[CDATA\[)?\s*([^<\]]{1,4096}?)\s*(?:\]\]>)?\s*</(?:\w+:)?loc\s*>")
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
        found = [html.unescape(match) for match in _LOC.findall(text)]
    if len(found) > SITEMAP_ADDRESSES:
        raise over("sitemap_addresses", len(found), SITEMAP_ADDRESSES, "addresses")
    return found, bool(_INDEX.search(text[:10_000]))


def gunzipped(content: bytes, limit: str, most: int) -> bytes:
    """What was packed with gzip, unless that is more than the limit of that name.

    Raises:
        NotTaken: it is, or the bytes are damaged.
    """
    made = bytearray()
    while content:
        unpacker = zlib.decompressobj(31)
        try:
            made += unpacker.decompress(content, most + 1 - len(made))
        except zlib.error as error:
            raise NotTaken("damaged", f"not what gzip packs: {error}") from error
        if len(made) > most:
            raise over(limit, len(made), most, "bytes or more, unpacked")
        if not unpacker.eof:
            raise NotTaken("damaged", "what was packed with gzip breaks off")
        content = unpacker.unused_data
    return bytes(made)
