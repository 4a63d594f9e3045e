"""Documents to build from."""

from __future__ import annotations

import hashlib

from sartor.types import Document

MANUAL = """# Kettle

The kettle holds 1.7 litres of water. It switches itself off when the water boils, after four minutes at most.

## Cleaning

Fill it with vinegar and water once a month. Let it stand for an hour. Then rinse it three times with clear water.

```
# not a heading
```

## Warranty

The warranty lasts 24 months from the day of purchase. Keep the receipt in a safe place, it is asked for.
"""


def paper(text: str, place: str = "manual.md", title: str = "") -> Document:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Document(place=place, text=text, title=title, digest=digest, time="2026-11-26T12:00:00Z")
