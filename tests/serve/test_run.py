"""Running the server: where it may bind, and that a signal lets answers finish."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from sartor.errors import UserError
from sartor.serve.keys import Key
from sartor.serve.run import serve

SLOW_SERVER = """
import time
from sartor.generate.protocol import Token
from sartor.serve.desk import Desk
from sartor.serve.keys import Key
from sartor.serve.run import serve

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

serve(Desk.of(Engine(), "base", Renderer(), {}), key=Key("k", "test"), port=0, ready=lambda url: print(url, flush=True))
print("left in peace")
"""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_a_host_open_to_others_needs_a_proxy(scripted: Any, host: str) -> None:
    with pytest.raises(UserError, match="other machines") as refused:
        serve(desk := _desk(scripted), key=Key("k", "test"), host=host)
    assert "--behind-proxy" in refused.value.hint
    assert desk.find("base").turns.engine.num_closed == 1


def test_a_taken_port_is_named(scripted: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(_desk(scripted), key=Key("k", "test"), port=port)
    with pytest.raises(UserError, match="cannot listen"):
        serve(_desk(scripted), key=Key("k", "test"), port=70_000)


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


def _desk(scripted: Any) -> Any:
    from sartor.serve.desk import Desk

    return Desk.of(scripted(), "base", None, {})  # type: ignore[arg-type]
