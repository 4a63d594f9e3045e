"""Fakes for the server: an engine whose tokens are the bytes of a text, a renderer to match, and a real HTTP server."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai
import pytest
import uvicorn

from sartor.errors import DataError, MachineError, SartorError
from sartor.generate.protocol import Adapters, Failed, Sampling, Token, room_for_answer, stream
from sartor.serve.app import create_app
from sartor.serve.chat_log import ChatLog
from sartor.serve.desk import Desk
from sartor.serve.keys import Key
from sartor.serve.run import bind
from sartor.types import Json, Message

STOP = 256
SECONDS = 20.0  # how long a test waits for something that must happen


class ByteRenderer:
    """Ids are UTF-8 bytes; 256 ends an answer."""

    stop_ids = frozenset({STOP})

    def __init__(self, fingerprint: str = "0123456789abcdef") -> None:
        self.fingerprint = fingerprint
        self.seen: list[tuple[tuple[Message, ...], tuple[Json, ...]]] = []

    def prompt(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> tuple[int, ...]:
        self.seen.append((tuple(messages), tuple(tools)))
        if any(message.content == "refuse me" for message in messages):
            raise DataError("the chat template refuses this conversation", hint="send other messages")
        if any(message.content == "break me" for message in messages):
            raise ZeroDivisionError("a bug of ours, with a secret in it")
        return tuple("".join(message.content for message in messages).encode())

    def opening(self, text: str) -> tuple[int, ...]:
        if text == "refuse me":
            raise DataError("this base goes on with no running text", hint="send messages")
        return tuple(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id for id in ids if id != STOP).decode("utf-8", "replace")


@dataclass
class ScriptedEngine:
    """Says its script to everyone in the batch. With a `gate`, each step waits until the test lets it through."""

    script: str = "Hello, wörld 🙂!"
    context: int = 4096
    adapters: tuple[str, ...] = ("tickets",)
    gate: threading.Semaphore | None = None
    fails_at: int | None = None
    refuses: set[int] = field(default_factory=set)  # handles of requests that fail alone, of `refusal`
    refusal: SartorError = field(default_factory=lambda: MachineError("this one cannot be answered", hint="ask again"))
    drops: set[int] = field(default_factory=set)  # handles of requests that it forgets
    asked: list[tuple[tuple[int, ...], Sampling, str | None]] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    num_cancelled: int = 0
    num_closed: int = 0
    most_at_once: int = 0
    threads: set[int] = field(default_factory=set)
    rows: dict[int, Iterator[Token]] = field(default_factory=dict)
    stepping: bool = False

    @property
    def busy(self) -> bool:
        return bool(self.rows)

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def requests(self) -> Collection[int]:
        return self.rows.keys()

    def submit(self, prompt: Sequence[int], sampling: Sampling, adapter: str | None) -> int:
        left = room_for_answer(prompt, sampling, self.context)
        handle = len(self.asked)
        self.asked.append((tuple(prompt), sampling, adapter))
        self.rows[handle] = self._answer(handle, replace(sampling, max_new_tokens=left), adapter)
        return handle

    def advance(self) -> list[Token]:
        assert not self.stepping, "two steps at a time"
        if not self.rows:
            return []
        self.stepping = True
        try:
            if self.gate is not None:
                self.gate.acquire()
            self.threads.add(threading.get_ident())
            for handle in self.refuses & self.rows.keys():
                del self.rows[handle]
                raise Failed(handle, self.refusal)
            for handle in self.drops & self.rows.keys():
                del self.rows[handle]
            self.most_at_once = max(self.most_at_once, len(self.rows))
            tokens = [next(answer) for answer in self.rows.values()]
            self.rows = {token.row: self.rows[token.row] for token in tokens if token.finish is None}
            return tokens
        finally:
            self.stepping = False

    def cancel(self, handle: int) -> None:
        assert not self.stepping, "cancelled in the middle of a step"
        if self.rows.pop(handle, None) is not None:
            self.num_cancelled += 1

    def stream(self, prompts: Sequence[Sequence[int]], sampling: Sampling, adapter: Adapters) -> Iterator[Token]:
        return stream(self, prompts, sampling, adapter)

    def logprobs(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> list[float]:
        return [0.0 for _ in sequences]

    def close(self) -> None:
        assert not self.stepping, "closed in the middle of a step"
        self.num_closed += 1

    def _answer(self, handle: int, sampling: Sampling, adapter: str | None) -> Iterator[Token]:
        for index, id in enumerate(self._ids(sampling, adapter), start=1):
            if index - 1 == self.fails_at:
                raise ZeroDivisionError("the engine's secret")
            self.computed.append(id)
            last = index == sampling.max_new_tokens
            yield Token(handle, id, "stop" if id == STOP else "length" if last else None)

    def _ids(self, sampling: Sampling, adapter: str | None) -> list[int]:
        if sampling.temperature:
            dice = random.Random(sampling.seed)
            return [*(dice.choice(b"abcdefgh") for _ in range(12)), STOP]
        return [*((f"{adapter}: " if adapter else "") + self.script).encode(), STOP]


@dataclass
class Server:
    """A running server: where it is, its key, and what is behind it."""

    url: str
    key: str
    engine: ScriptedEngine
    renderer: ByteRenderer
    desk: Desk

    def client(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=SECONDS)

    def http(self, **headers: str) -> httpx2.Client:
        """A plain client with the key."""
        given = {"Authorization": f"Bearer {self.key}", **headers}
        return httpx2.Client(base_url=self.url, headers=given, timeout=SECONDS)


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until something is true; it must become so."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.005)

    return wait


def _running(engine: ScriptedEngine, key: str, host: str, log: ChatLog | None = None) -> Iterator[Server]:
    renderer = ByteRenderer()
    desk = Desk.of(engine, "base", renderer, dict.fromkeys(engine.adapters, renderer))
    app = create_app(desk, Key(key, "test"), host=host, log=log)
    server = uvicorn.Server(
        uvicorn.Config(app, http="h11", lifespan="off", ws="none", log_level="critical", access_log=False)
    )
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{bound.getsockname()[1]}", key, engine, renderer, desk)
    server.should_exit = True
    if engine.gate is not None:
        engine.gate.release(100_000)
    thread.join(SECONDS)
    desk.close()
    assert not thread.is_alive()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start a server with an engine of one's own; it is stopped after the test."""
    running: list[Iterator[Server]] = []

    def begin(
        engine: ScriptedEngine | None = None,
        *,
        key: str = "sk-test-key",
        host: str = "127.0.0.1",
        log: ChatLog | None = None,
    ) -> Server:
        running.append(_running(engine or ScriptedEngine(), key, host, log))
        return next(running[-1])

    yield begin
    for server in running:
        next(server, None)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests of a file that leave nothing behind."""
    yield from _running(ScriptedEngine(), "sk-test-key", "127.0.0.1")


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedEngine]:
    return ScriptedEngine


@pytest.fixture(scope="session")
def byte_renderer() -> type[ByteRenderer]:
    return ByteRenderer


@pytest.fixture(scope="session")
def chat() -> Callable[..., Json]:
    """The body of a chat request."""

    def body(**fields: Any) -> Json:
        return {"model": "base", "messages": [{"role": "user", "content": "hi"}], **fields}

    return body
