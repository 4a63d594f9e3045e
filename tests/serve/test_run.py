"""Running the server: where it may bind, and that a signal lets answers finish."""

from __future__ import annotations

import os
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


def test_a_log_of_chats_at_no_place_for_one_is_the_users_mistake(shell: Any) -> None:
    (shell.folder / "sartor.json").write_text("{}")
    (shell.folder / "logs").mkdir()
    code, _, said = shell("serve", ".", "--port", "0", "--api-key", "sk-test", "--log-chats", "logs")
    assert code == 2 and "cannot be written: Is a directory" in said and "another place with --log-chats" in said


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


def test_a_signal_as_the_engine_closes_does_not_cut_that_short() -> None:
    told = 'print("closed", flush=True)'
    script = SLOW_SERVER.replace(told, f"signal.raise_signal(signal.SIGTERM); {told}")
    command = [sys.executable, "-c", script, str(int(signal.SIGTERM))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines()[1:] == ["closed", "left in peace"]


STARTING_VLLM = """
import sys
from sartor import cli
from sartor.generate.vllm.server import start_server
from sartor.serve import desk

desk.open_desk = lambda folders, engine: start_server(folders[0], {}, dtype="bfloat16", num_threads=None)
sys.argv = ["sartor", "serve", ".", "--engine", "vllm", "--port", "0", "--api-key", "k"]
cli.main()
"""


#: A `vllm` that hangs when it is first asked for its health, and tells its process.
HANGING_VLLM = """
import os, socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))) as opened:
    asker, _ = opened.accept()
    with open("pid.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename("pid.new", "pid")
    time.sleep(60)
"""


def test_a_signal_ends_an_engine_that_still_starts(tmp_path: Path, eventually: Any) -> None:
    program, pid = tmp_path / "vllm", tmp_path / "pid"
    program.write_text(f"#!{sys.executable}{HANGING_VLLM}")
    program.chmod(0o755)
    (tmp_path / "sartor.json").write_text("{}")
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, "-c", STARTING_VLLM], cwd=tmp_path, env=environment) as process:
        eventually(lambda: pid.exists() or process.poll() is not None)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not durable.is_running(int(pid.read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_as_it_starts_ends_it(number: int) -> None:
    """Between the address, which whoever starts it waits for, and the moment when the server listens to signals."""
    command = [sys.executable, "-c", SLOW_SERVER, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines()[1:] == ["closed", "left in peace"]
