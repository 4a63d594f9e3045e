"""The doctor: looks at everything that a run needs, and has a way out for whatever is missing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sartor import doctor
from sartor.doctor import NEEDED, Finding, examine
from sartor.hub import EMBEDDED


def found(folder: Path) -> dict[str, Finding]:
    findings = list(examine(folder))
    assert len({finding.what for finding in findings}) == len(findings)
    return {finding.what: finding for finding in findings}


def test_this_machine_is_ready(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert set(findings) >= {"python", *NEEDED, *EMBEDDED, "processor", "memory", "disk", "cache"}
    for name in ("python", *NEEDED, *EMBEDDED, "processor", "cache"):
        assert findings[name].ok, findings[name]
    assert findings["torch"].seen[0].isdigit()
    assert "cores" in findings["processor"].seen
    assert "GiB free" in findings["memory"].seen


def test_whatever_can_be_wrong_has_a_hint(tmp_path: Path) -> None:
    for finding in found(tmp_path).values():
        assert finding.seen
        assert finding.hint or finding.what == "processor"


def test_a_package_that_is_missing_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDED, "no_such_package", "pip install it")
    finding = found(tmp_path)["no_such_package"]
    assert (finding.ok, finding.seen, finding.hint) == (False, "not installed", "pip install it")


def test_too_little_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 2**60)
    monkeypatch.setattr(doctor, "LEAST_DISK", 2**60)
    findings = found(tmp_path)
    assert not findings["memory"].ok
    assert not findings["disk"].ok


def test_the_cache_may_not_be_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "deep" / "below" / "cache"
    monkeypatch.setenv("SARTOR_CACHE", str(cache))
    finding = found(tmp_path)["cache"]
    assert (finding.ok, finding.seen) == (True, str(cache))
    assert not cache.exists(), "a look changes nothing"


def test_a_cache_that_cannot_be_written_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root everything can be written, but for the folders of the kernel."""
    place = Path("/proc") if os.geteuid() == 0 else tmp_path / "shut"
    if place.parent == tmp_path:
        place.mkdir()
        place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("SARTOR_CACHE", str(place / "cache"))
    finding = found(tmp_path)["cache"]
    assert "SARTOR_CACHE" in finding.hint
    assert finding.ok == os.access(place, os.W_OK)
