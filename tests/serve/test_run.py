"""Running the server: where it may bind, and that a signal lets answers finish."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sartor import durable
from sartor.errors import UserError
from sartor.recipe import load
from sartor.serve.run import bind
from sartor.store import open_run

SLOW_SERVER = """
import signal
import sys
import time
from sartor.generate.protocol import Token
from sartor.serve.desk import Desk
from sartor.serve.keys import Key
from sartor.serve.run import bind, serve

class Engine:
    adapters, context, number, requests = (), 100, 0, (0,)
    def submit(self, prompt, sampling, adapter):
        return 0
    def advance(self):
        time.sleep(0.05)
        self.number += 1
        return [Token(0, 96 + self.number, "length" if self.number == 20 else None)]
    def cancel(self, handle):
        pass
    def close(self):
        print("closed", flush=True)

class Renderer:
    stop_ids, fingerprint = frozenset(), "x"
    def prompt(self, messages, tools=()): return (1,)
    def decode(self, ids): return bytes(ids).decode()

def ready(url):
    print(url, flush=True)
    for number in map(int, sys.argv[1:]):
        signal.raise_signal(number)

desk = Desk.of(Engine(), "base", Renderer(), {})
serve(desk, bind("127.0.0.1", 0), key=Key("k", "test"), ready=ready)
print("left in peace")
"""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_a_host_open_to_others_needs_a_proxy(host: str) -> None:
    with pytest.raises(UserError, match="other machines") as refused:
        bind(host, 0)
    assert "--behind-proxy" in refused.value.hint


def test_behind_a_proxy_any_host_of_ours_is_fine() -> None:
    with bind("0.0.0.0", 0, behind_proxy=True) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen"):
        bind("127.0.0.1", 70_000)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (("--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines"),
        (("--port", "TAKEN"), "cannot listen on 127.0.0.1"),
        (("--port", "0"), "has no sartor.json"),
    ],
)
def test_an_address_is_refused_before_anything_is_opened(
    shell: Any, smollm2_folder: Path, where: tuple[str, str], says: str
) -> None:
    (shell.folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = shell.folder / "sartor.yaml"
    recipe.write_text(f"model: {smollm2_folder}\ndata: rows.jsonl\ntask: exact\n")
    run = open_run(recipe, load(recipe))
    durable.write_json(run.path("artifact/manifest.json"), {})  # no artifact yet: to open it is an error of its own
    with socket.create_server(("127.0.0.1", 0)) as taken:
        option, value = where
        value = str(taken.getsockname()[1]) if value == "TAKEN" else value
        code, _, said = shell("serve", option, value, "--api-key", "sk-test", "--log-chats", "chats.jsonl")
    assert code == 2 and says in " ".join(said.split())
    assert (shell.folder / "chats.jsonl").exists() == ("sartor.json" in says), "the log begins when there is a server"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_answer_finish(number: int, chat: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW_SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx2.stream(
            "POST", f"{url}/chat/completions", json=chat(stream=True), headers={"Authorization": "Bearer k"}, timeout=20
        ) as reply:
            lines = reply.iter_lines()
            assert "assistant" in next(lines)
            process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and '"finish_reason":"length"' in rest[-2]
        assert process.wait(20) == 0
        assert process.stdout.read() == "closed\nleft in peace\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_as_it_starts_ends_it(number: int) -> None:
    """Between the address, which whoever starts it waits for, and the moment when the server listens to signals."""
    command = [sys.executable, "-c", SLOW_SERVER, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines()[1:] == ["closed", "left in peace"]
