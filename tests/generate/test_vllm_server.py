"""Starting and stopping `vllm serve`: with a program of that name that takes the same command line."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import httpx2
import pytest

from sartor.errors import MachineError, UserError
from sartor.generate.protocol import Sampling
from sartor.generate.vllm import open_engine, server
from sartor.generate.vllm.server import SERVED_BASE, Address, arguments, start_server

FAKE = Path(__file__).parent.parent / "vllm_fake.py"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `vllm` on PATH."""
    file = tmp_path / "bin" / "vllm"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SARTOR_VLLM_URL", raising=False)
    return file


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    folders = {"calls": tmp_path / "calls", "tickets-1.2": tmp_path / "tickets"}
    for rank, folder in zip((4, 17), folders.values(), strict=True):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    return folders


def test_it_starts_answers_and_is_stopped(program: Path, tmp_path: Path, adapters: dict[str, Path]) -> None:
    engine = open_engine(tmp_path, adapters, dtype="float32", num_threads=2)
    assert engine.adapters == ("calls", "tickets-1.2")
    tokens = list(engine.stream([[10], [10]], Sampling(2, frozenset()), ("calls", "tickets-1.2")))
    assert sorted(token.id for token in tokens) == [12, 12, 14, 14]
    ours = engine._server
    assert ours is not None
    assert httpx2.get(f"{ours.address.url}/v1/models").status_code == 401, "others have no key"
    assert ours.process.poll() is None
    engine.close()
    engine.close()
    assert ours.process.poll() is not None


def test_the_command_line(tmp_path: Path, adapters: dict[str, Path]) -> None:
    bare = ["serve", str(tmp_path), "--host", "127.0.0.1", "--port", "81", "--dtype", "bfloat16"]
    bare += ["--served-model-name", SERVED_BASE, "--generation-config", "vllm"]
    assert arguments(tmp_path, {}, dtype="bfloat16", port=81) == bare
    tuned = arguments(tmp_path, adapters, dtype="bfloat16", port=81)[len(bare) :]
    assert tuned[:6] == ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "32", "--lora-modules"]
    assert tuned[6:] == [f'{{"name": "{name}", "path": "{path}"}}' for name, path in adapters.items()]


@pytest.mark.parametrize("config", ["{", '{"peft_type": "IA3"}', '{"r": "many"}', '{"r": 1024}'])
def test_an_adapter_that_vllm_does_not_serve_is_refused_before_the_start(
    program: Path, tmp_path: Path, adapters: dict[str, Path], config: str
) -> None:
    (adapters["calls"] / "adapter_config.json").write_text(config)
    with pytest.raises(UserError, match=r"calls is no LoRA adapter|rank 1024") as caught:
        start_server(tmp_path, adapters, dtype="bfloat16", num_threads=None)
    assert "the engine `sartor`" in caught.value.hint


def test_one_that_dies_is_quoted(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "dies")
    with pytest.raises(MachineError, match="ended with code 1") as caught:
        start_server(tmp_path, {}, dtype="bfloat16", num_threads=None)
    assert "head_dim 16 is not supported" in caught.value.message


def test_one_that_is_never_ready_is_stopped_and_quoted(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "hangs")
    with pytest.raises(MachineError, match="not ready after 3 s") as caught:
        start_server(tmp_path, {}, dtype="bfloat16", num_threads=None, patience=3.0)
    assert "loading weights" in caught.value.message


def test_one_that_does_not_end_is_killed(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "stubborn")
    monkeypatch.setattr(server, "STOP_SECONDS", 0.5)
    started = start_server(tmp_path, {}, dtype="bfloat16", num_threads=None)
    started.stop()
    assert started.process.returncode == -signal.SIGKILL


def test_one_that_nobody_holds_is_stopped(program: Path, tmp_path: Path) -> None:
    process = start_server(tmp_path, {}, dtype="bfloat16", num_threads=None).process
    gc.collect()
    assert process.poll() is not None


def test_without_vllm_the_error_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SARTOR_VLLM_URL", raising=False)
    with pytest.raises(UserError, match="no `vllm` on PATH") as caught:
        open_engine(tmp_path, {})
    assert "SARTOR_VLLM_URL" in caught.value.hint


def test_no_message_shows_the_key() -> None:
    assert "sk-secret" not in repr(Address.read("http://127.0.0.1:8000/v1", "sk-secret"))
