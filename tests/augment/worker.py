"""A process that grows a data set from an endpoint, to be killed: `worker.py FOLDER URL`."""

from __future__ import annotations

import sys
from pathlib import Path

from sartor.ask.endpoint import Config, Endpoint
from sartor.augment.grow import accept_passed, grow
from sartor.augment.work import reopen

if __name__ == "__main__":
    folder, url = sys.argv[1:]
    asker = Endpoint(Config(url=url, model="fake", concurrency=2))
    for _ in grow(reopen(Path(folder), "work"), asker, review=accept_passed):
        pass
