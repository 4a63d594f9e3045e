"""A data set of the hub: from the cache, at the commit that a name stood for, with the licence of its card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sartor.collect.gather import gather, origin_of
from sartor.errors import DataError

from .site import FakeTime, Page, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = '{"prompt": "a", "completion": "b"}\n'
CARD = "---\nlicense: mit\ntask_categories:\n- text-generation\n---\n# Things\n"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as the hub's client lays it out: contents under their hash, links to them by name."""
    base = tmp_path / "cache" / "datasets--acme--things"
    snapshot = base / "snapshots" / COMMIT
    for number, (name, content) in enumerate(
        {"README.md": CARD, "data/train-0.jsonl": ROWS, "test.jsonl": ROWS}.items()
    ):
        blob = base / "blobs" / str(number)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    (tmp_path / "secret.jsonl").write_text(ROWS)
    (snapshot / "out.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(COMMIT)
    return base.parent


def test_a_cached_data_set_is_read_at_its_commit(cache: Path, tmp_path: Path) -> None:
    origin = origin_of("hf:acme/things@main", cache=str(cache), offline=True, files=("data/train-*", "out.jsonl"))
    assert origin.source == "hub"
    folder = gather([origin], tmp_path / "out", clock=FakeTime().clock())
    (example,) = folder.examples()
    assert example.source.file == f"hf:acme/things@{COMMIT}/data/train-0.jsonl"
    (place,) = map(json.loads, (tmp_path / "out" / "places.jsonl").read_text().splitlines())
    assert place["licence"] == "mit" and place["about"]["revision"] == COMMIT
    reasons = {entry.file.rpartition("/")[2]: entry.reason for entry in folder.ledger()}
    assert reasons == {"README.md": "describes_the_place", "test.jsonl": "not_asked_for", "out.jsonl": "link"}
    assert f"name hf:acme/things@{COMMIT}" in (tmp_path / "out" / "card.md").read_text()


def test_a_pinned_commit_needs_no_note(cache: Path, tmp_path: Path) -> None:
    gather([origin_of(f"hf:acme/things@{COMMIT}", cache=str(cache), offline=True)], tmp_path / "out")
    assert "to get the same again" not in (tmp_path / "out" / "card.md").read_text()


@pytest.mark.parametrize(
    "place", ["hf:acme/nothing@main", "hf:acme/things@other", "hf:", "hf:a/b/c", "hf:acme/things@"]
)
def test_what_is_not_there_is_the_users_mistake(cache: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(DataError):
        gather([origin_of(place, cache=str(cache), offline=True)], tmp_path / "out")


ONLINE = """
import sys
from pathlib import Path
from sartor.collect.gather import gather, origin_of
cache, most, target = sys.argv[1:]
folder = gather([origin_of("hf:acme/things", cache=cache, max_bytes=int(most))], Path(target))
print(*(example.source.file for example in folder.examples()), *(entry.reason for entry in folder.ledger()))
"""


def test_a_branch_is_resolved_once_and_fetched_by_its_commit(tmp_path: Path) -> None:
    files = {"README.md": CARD, "train.jsonl": ROWS, "loader.py": "import os"}
    siblings = [{"rfilename": name, "size": len(text)} for name, text in files.items()]
    info = {"id": "acme/things", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
    listing = [
        {"type": "file", "path": name, "size": len(text), "oid": f"{number}" * 40}
        for number, (name, text) in enumerate(files.items())
    ]
    api = "/api/datasets/acme/things"
    pages = {
        f"{api}/revision/main?blobs=true": Page(json.dumps(info), kind="application/json"),
        f"{api}/revision/{COMMIT}": Page(json.dumps(info), kind="application/json"),
        f"{api}/tree/{COMMIT}?recursive=true&expand=false": Page(json.dumps(listing), kind="application/json"),
    }
    for name, text in files.items():
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        pages[f"/datasets/acme/things/resolve/{COMMIT}/{name}"] = Page(text, kind="text/plain", headers=headers)
    with serving(dict(pages)) as site:
        environment = {**os.environ, "HF_ENDPOINT": site.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

        def run(most: int, target: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", ONLINE, str(tmp_path / "cache"), str(most), str(tmp_path / target)]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        done = run(1000, "out")
        assert done.returncode == 0, (done.stderr, site.asked)
        assert done.stdout.split() == [f"hf:acme/things@{COMMIT}/train.jsonl", "describes_the_place", "not_asked_for"]
        assert not any("loader.py" in path for path in site.asked)
        assert "the limit max_bytes is 10" in run(10, "small").stderr
