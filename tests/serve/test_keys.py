"""Where the key comes from, and who can read it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sartor.errors import UserError
from sartor.serve.keys import Key, config_dir, find_key, generate


def test_given_before_environment_before_file(tmp_path: Path) -> None:
    environment = {"SARTOR_HOME": str(tmp_path), "SARTOR_API_KEY": "from-environment"}
    assert find_key("given", environment) == Key("given", "--api-key")
    assert find_key(None, environment) == Key("from-environment", "SARTOR_API_KEY")
    assert list(tmp_path.iterdir()) == []  # no key is made that nobody needs


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    environment = {"SARTOR_HOME": str(tmp_path / "home")}
    key = find_key(None, environment)
    assert re.fullmatch(r"sk-sartor-[0-9a-f]{8}-[0-9a-f]{48}", key.text)
    file = Path(key.origin)
    assert file.is_relative_to(tmp_path) and file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert find_key(None, environment) == key
    assert key.text not in repr(key)


def test_two_first_starts_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: find_key(None, {"SARTOR_HOME": str(tmp_path)}), range(16)))
    assert len(keys) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = Path(find_key(None, {"SARTOR_HOME": str(tmp_path)}).origin)
    file.chmod(mode)
    with pytest.raises(UserError, match=f"mode {mode:04o}") as refused:
        find_key(None, {"SARTOR_HOME": str(tmp_path)})
    assert "chmod 600" in refused.value.hint


@pytest.mark.parametrize("text", ["", " ", "two words", "schlüssel", "line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="--api-key"):
        find_key(text, {})
    with pytest.raises(UserError, match="SARTOR_API_KEY"):
        find_key(None, {"SARTOR_API_KEY": text})


def test_an_emptied_file_is_refused(tmp_path: Path) -> None:
    file = Path(find_key(None, {"SARTOR_HOME": str(tmp_path)}).origin)
    file.write_text("")
    with pytest.raises(UserError, match="is empty"):
        find_key(None, {"SARTOR_HOME": str(tmp_path)})


@pytest.mark.parametrize("where", ["no folder", "no home"])
def test_a_key_that_cannot_be_kept_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").touch()
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(UserError, match="no place to keep the key") as refused:
        find_key(None, {"SARTOR_HOME": str(tmp_path / "file")} if where == "no folder" else {})
    assert "--api-key" in refused.value.hint and "SARTOR_HOME" in refused.value.hint


def test_matches() -> None:
    key = Key("sk-sartor-1-2", "test")
    assert key.matches("sk-sartor-1-2")
    assert not any(key.matches(other) for other in ("", "sk-sartor-1", "sk-sartor-1-22", "é", "\udc80"))
    assert generate() != generate()


def test_config_dir() -> None:
    assert config_dir({"SARTOR_HOME": "/a", "XDG_CONFIG_HOME": "/b"}) == Path("/a")
    assert config_dir({"SARTOR_HOME": "", "XDG_CONFIG_HOME": "/b"}) == Path("/b/sartor")
    assert config_dir({}) == Path.home() / ".config" / "sartor"
