"""A crawl in a process of its own, to be killed: `crawler.py ADDRESS FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from sartor.collect.gather import gather, origin_of

if __name__ == "__main__":
    gather([origin_of(sys.argv[1], allow_private=True, delay=0.0, max_depth=20)], Path(sys.argv[2]))
