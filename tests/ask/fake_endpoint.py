"""A real HTTP server on loopback that speaks OpenAI's chat API, and errs, stalls and lies as its script says."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What is done with a request: the body that was asked, and how often this very conversation was asked before.
Script = Callable[[dict[str, Any], int], "Act"]


@dataclass(frozen=True)
class Act:
    """One reaction. `raw` is sent in place of a completion; `stall` holds the connection and sends nothing; `reset`
    breaks it off, after half of the body if `half`."""

    text: Any = "Yes."
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
    finish: str = "stop"
    message: dict[str, Any] = field(default_factory=dict)
    stall: bool = False
    reset: bool = False
    half: bool = False

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.text}}).encode()
        message = {"role": "assistant", "content": self.text, **self.message}
        value = {"choices": [{"index": 0, "message": message, "finish_reason": self.finish}]}
        return json.dumps(value | ({} if self.usage is None else {"usage": self.usage})).encode()


@dataclass
class Server:
    """What was asked so far, in the order of arrival, and how many were under way at once at most."""

    script: Script
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)
    barrier: threading.Barrier | None = None

    def conversations(self) -> list[str]:
        return [json.dumps(body["messages"]) for body in self.asked]

    def begin(self, body: dict[str, Any], headers: dict[str, str]) -> Act:
        with self.lock:
            said = json.dumps(body["messages"])
            before = self.conversations().count(said)
            self.asked.append(body)
            self.headers.append(headers)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        if self.barrier is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.barrier.wait(5)
        return self.script(body, before)

    def end(self) -> None:
        with self.lock:
            self.under_way -= 1


@contextlib.contextmanager
def serving(script: Script, *, barrier: threading.Barrier | None = None) -> Iterator[Server]:
    server = Server(script, barrier=barrier)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            act = server.begin(body, {name.lower(): value for name, value in self.headers.items()})
            try:
                self.act(act)
            finally:
                server.end()

        def act(self, act: Act) -> None:
            if act.stall:
                server.closing.wait(20)
                self.close_connection = True
                return
            body = act.body()
            if act.reset:
                if act.half:
                    self.head(act, len(body))
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            self.head(act, len(body))
            self.wfile.write(body)

        def head(self, act: Act, length: int) -> None:
            self.send_response(act.status)
            for name, value in act.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(length))
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # a client that went away, or that we sent away
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            http.shutdown()
            thread.join()
