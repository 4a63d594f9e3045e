"""A server that speaks the part of vLLM's HTTP that our engine uses, with its field names and its errors, on loopback.

It remembers what it was asked, and can be told to fail in each of the ways in which servers fail. Run as a program, it
takes the command line of `vllm serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

KEY = "sk-test"
BASE = "tiny"


class Speaker(Protocol):
    """What stands behind the server: the next token of a sequence, and the log-probability of every one of its own."""

    def next(self, ids: Sequence[int], model: str, asked: dict[str, Any], place: int) -> int: ...

    def weigh(self, ids: Sequence[int], model: str) -> list[float]: ...


class Counter:
    """Counts on from the last token: the base by ones, an adapter by twos; with a temperature, by chance."""

    def next(self, ids: Sequence[int], model: str, asked: dict[str, Any], place: int) -> int:
        chance = random.Random(f"{asked['seed']} {place}").randrange(1000) if asked["temperature"] else 0
        return ids[-1] + (1 if model == BASE else 2) + chance

    def weigh(self, ids: Sequence[int], model: str) -> list[float]:
        return [-0.5 if model == BASE else -0.25] * len(ids)


class FakeVllm:
    """The server. `fault` makes completions fail: the tests name the ways.

    `asked` holds the bodies of completions, `closed` the number of streams that the client left before their end.
    """

    def __init__(
        self,
        speaker: Speaker,
        *,
        key: str = KEY,
        base: str = BASE,
        root: str = "org/tiny",
        adapters: dict[str, str] | None = None,
        context: int = 512,
        loads: bool = True,
    ) -> None:
        self.speaker, self.key, self.base, self.root, self.context = speaker, key, base, root, context
        self.adapters = dict(adapters or {})
        self.loads = loads
        self.fault = ""
        self.pause = 0.0
        self.unhealthy = 0
        self.asked: list[dict[str, Any]] = []
        self.closed = 0
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()
        app.middleware("http")(self._guard)
        app.get("/health")(self._health)
        app.get("/v1/models")(self._models)
        app.post("/v1/completions", response_model=None)(self._completions)
        if self.loads:  # only with VLLM_ALLOW_RUNTIME_LORA_UPDATING
            app.post("/v1/load_lora_adapter", response_model=None)(self._load)
            app.post("/v1/unload_lora_adapter", response_model=None)(self._unload)
        return app

    @contextmanager
    def running(self) -> Iterator[FakeVllm]:
        """Serve from a thread."""
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{opened.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(self.app(), log_level="critical", timeout_graceful_shutdown=1))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
            thread.start()
            while not server.started:
                time.sleep(0.01)
            try:
                yield self
            finally:
                server.should_exit = True
                thread.join()

    async def _guard(self, request: Request, call_next: Any) -> Response:
        if request.url.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return await call_next(request)

    async def _health(self) -> Response:
        self.unhealthy -= 1
        return Response(status_code=503 if self.unhealthy >= 0 else 200)

    async def _models(self) -> Response:
        if self.fault == "other server":
            return PlainTextResponse("<html>hello</html>")
        facts = {"object": "model", "created": 1, "owned_by": "vllm"}
        base = {"id": self.base, "root": self.root, "parent": None, "max_model_len": self.context, **facts}
        if self.fault == "no context":  # as other servers of OpenAI's API list it
            del base["max_model_len"]
        tuned = [
            {"id": name, "root": path, "parent": self.base, "max_model_len": None, **facts}
            for name, path in self.adapters.items()
        ]
        return JSONResponse({"object": "list", "data": [base, *tuned]})

    async def _load(self, request: Request) -> Response:
        asked = await request.json()
        name, path = asked["lora_name"], asked["lora_path"]
        if not (Path(path) / "adapter_config.json").is_file():
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        if asked["model"] not in (self.base, *self.adapters):
            return _error(404, "NotFoundError", f"The model `{asked['model']}` does not exist.")
        longest = len(asked["prompt"]) + asked["max_tokens"]
        if longest > self.context or self.fault == "too long":
            message = f"This model's maximum context length is {self.context} tokens. However, you requested {longest}."
            return _error(400, "BadRequestError", message)
        if self.fault == "busy":
            return _error(503, "ServiceUnavailable", "overloaded")
        if asked.get("stream"):
            return StreamingResponse(self._stream(asked), media_type="text/event-stream")
        return JSONResponse({"object": "text_completion", "choices": [self._weighed(asked)]})

    def _weighed(self, asked: dict[str, Any]) -> dict[str, Any]:
        ids = asked["prompt"]
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length", "token_ids": [1]}
        if self.fault != "no logprobs" and asked.get("prompt_logprobs") is not None:
            rates = self.speaker.weigh(ids, asked["model"])
            entries = [
                {str(token): {"logprob": rate, "rank": 1, "decoded_token": "x"}}
                for token, rate in zip(ids, rates, strict=True)
            ]
            choice["prompt_logprobs"] = [None, *entries[1:]]
        return choice

    async def _stream(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        ended = False
        try:
            async for event in self._events(asked):
                yield event if event.startswith(":") else f"data: {event}\n\n"
            ended = self.fault == ""
        finally:
            self.closed += not ended

    async def _events(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        prompt, held = asked["prompt"], []
        ids = list(prompt)
        for place in range(asked["max_tokens"]):
            await asyncio.sleep(self.pause)
            if place == 2 and self.fault not in ("", "stop unsaid"):
                async for event in self._fail():
                    yield event
                if self.fault != "own stop":
                    return
            token = self.speaker.next(ids, asked["model"], asked, place)
            ids.append(token)
            held.append(token)
            stops = token in asked["stop_token_ids"] or (place == 2 and self.fault == "own stop")
            last = stops or place + 1 == asked["max_tokens"]
            if place % 2 and not last:
                continue  # vLLM may send several at once, after the first
            reason = "stop" if stops else "length" if last else None
            choice = {"index": 0, "text": "x", "logprobs": None, "finish_reason": reason, "token_ids": held}
            choice["stop_reason"] = token if stops else None
            if place == 0:
                choice["prompt_token_ids"] = [1, *prompt] if self.fault == "bos" else prompt
            if self.fault == "stop unsaid" and stops:
                choice["token_ids"] = held[:-1]
            if self.fault == "no ids":
                del choice["token_ids"]
            yield json.dumps({"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice]})
            held = []
            if last:
                break
        yield json.dumps({"id": "cmpl-1", "object": "text_completion", "choices": [], "usage": {"total_tokens": 1}})
        yield ": a comment, as proxies send\n\n"
        yield "[DONE]"

    async def _fail(self) -> AsyncIterator[str]:
        """The third token does not come. What comes instead is said by `fault`."""
        if self.fault == "garbage":
            yield "{'not': json"
        elif self.fault == "no object":
            yield "[1, 2]"
        elif self.fault == "no choice":
            yield json.dumps({"id": "cmpl-1"})
        elif self.fault == "error":
            yield json.dumps({"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}})
        elif self.fault == "stalled":
            await asyncio.sleep(60)
        elif self.fault == "dropped":
            raise ConnectionResetError
        # "broken off": nothing more, and no [DONE]


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


def main(line: list[str]) -> None:
    """As `vllm serve` starts; `FAKE_VLLM` says how it behaves, and everything it takes must be known to it."""
    manner = os.environ.get("FAKE_VLLM", "")
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    for name in ("host", "port", "dtype", "served-model-name", "generation-config", "max-loras", "max-lora-rank"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--lora-modules", nargs="*", default=[])
    asked = parser.parse_args(line)
    if manner == "dies":
        sys.exit("ValueError: head_dim 16 is not supported")
    if manner == "hangs":
        sys.stderr.write("loading weights\n")
        time.sleep(60)
    adapters = {module["name"]: module["path"] for module in map(json.loads, asked.lora_modules)}
    fake = FakeVllm(
        Counter(),
        key=os.environ["VLLM_API_KEY"],
        base=asked.served_model_name,
        root=asked.model,
        adapters=adapters,
        loads=False,
    )
    fake.unhealthy = 2
    if manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=time.sleep, args=(60,)).start()  # Python waits for it
    with suppress(KeyboardInterrupt):
        uvicorn.run(fake.app(), host=asked.host, port=int(asked.port), log_level="critical")


if __name__ == "__main__":
    main(sys.argv[1:])
