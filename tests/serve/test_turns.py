"""One generation at a time; who goes away makes room."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from sartor.serve.errors import ApiError
from sartor.serve.turns import Turns


def test_requests_take_turns_on_one_thread(start: Any, scripted: Any) -> None:
    server = start(scripted())

    def ask(name: str) -> str:
        reply = server.client().chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
        return str(reply.choices[0].message.content)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, ["base", "tickets"] * 8))
    assert answers == ["Hello, wörld 🙂!", "tickets: Hello, wörld 🙂!"] * 8  # the engine asserts one at a time
    assert len(server.engine.threads) == 1 and server.engine.num_closed == 16


def test_a_streaming_client_that_leaves_frees_the_engine(start: Any, scripted: Any, chat: Any, eventually: Any) -> None:
    gate = threading.Semaphore(1)
    server = start(scripted(gate=gate))
    with server.http() as client, client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as reply:
        assert next(reply.iter_lines()).startswith("data: ")
    eventually(lambda: not server.desk.find("base").turns._turn.locked())
    gate.release()  # the token that was being computed when the client left
    eventually(lambda: server.engine.num_closed == 1)
    assert len(server.engine.computed) <= 2
    gate.release(1000)
    assert server.http().post("/v1/chat/completions", json=chat()).json()["choices"][0]["finish_reason"] == "stop"


def test_a_waiting_client_that_leaves_frees_the_engine(start: Any, scripted: Any, chat: Any, eventually: Any) -> None:
    gate = threading.Semaphore(0)
    server = start(scripted(gate=gate))
    with server.http() as client, pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/chat/completions", json=chat(), timeout=httpx2.Timeout(20, read=0.3))
    eventually(lambda: server.engine.busy and not server.desk.find("base").turns._turn.locked())
    gate.release()
    eventually(lambda: server.engine.num_closed == 1)
    assert len(server.engine.computed) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_the_line_is_never_computed(
    start: Any, scripted: Any, chat: Any, eventually: Any, stream: bool
) -> None:
    gate = threading.Semaphore(0)
    server = start(scripted(gate=gate))
    turns = server.desk.find("base").turns
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.http().post, "/v1/chat/completions", json=chat())
        eventually(lambda: server.engine.busy)
        with server.http() as client, pytest.raises(httpx2.ReadTimeout):
            body = chat(stream=stream, messages=[{"role": "user", "content": "late"}])
            with client.stream(
                "POST", "/v1/chat/completions", json=body, timeout=httpx2.Timeout(20, read=0.3)
            ) as reply:
                reply.read()
        gate.release(1000)
        assert first.result().json()["choices"][0]["message"]["content"] == "Hello, wörld 🙂!"
    eventually(lambda: turns._num_waiting == 0)
    after = server.http().post("/v1/chat/completions", json=chat())
    assert after.status_code == 200
    assert [bytes(prompt) for prompt, _, _ in server.engine.asked if bytes(prompt) == b"late"] == []


def test_many_leave_and_the_others_are_unharmed(start: Any, scripted: Any, chat: Any, eventually: Any) -> None:
    server = start(scripted(script="word " * 200))

    def leave(_: int) -> None:
        with server.http() as client, client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as reply:
            next(reply.iter_lines())

    def stay(_: int) -> str:
        reply = server.http().post("/v1/chat/completions", json=chat(model="tickets"))
        return str(reply.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(6) as pool:
        left = [pool.submit(leave, number) for number in range(30)]
        stayed = list(pool.map(stay, range(6)))
        assert all(future.result() is None for future in left)
    assert stayed == ["tickets: " + "word " * 200] * 6
    eventually(lambda: not server.engine.busy and server.engine.num_closed == len(server.engine.asked))
    assert server.desk.find("base").turns._num_waiting == 0


def test_the_line_has_an_end(scripted: Any) -> None:
    async def crowd() -> None:
        turns = Turns(scripted(), max_waiting=1)
        gate = threading.Event()

        def slow() -> Generator[int]:
            gate.wait(20)
            yield 1

        async def run() -> list[int]:
            return [step async for step in turns.steps(slow)]

        working = asyncio.ensure_future(run())
        await asyncio.sleep(0)
        turns.require_room()
        waiting = asyncio.ensure_future(run())
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as full:
            turns.require_room()
        assert full.value.status == 429 and "Retry-After" in full.value.headers
        gate.set()
        assert await asyncio.gather(working, waiting) == [[1], [1]]
        turns.require_room()
        turns.close()

    asyncio.run(crowd())


def test_a_cancelled_step_is_finished_and_closed_on_its_own_thread(scripted: Any) -> None:
    """The next in line must not begin before the one that left is closed, and closing must not meet it running."""
    order: list[str] = []
    entered, gate = threading.Event(), threading.Event()

    def slow() -> Generator[int]:
        try:
            entered.set()
            gate.wait(20)
            order.append("computed")
            yield 1
        finally:
            order.append("closed")

    def quick() -> Generator[int]:
        order.append("next")
        yield 2

    async def run() -> None:
        turns = Turns(scripted())

        async def consume(work: Any) -> list[int]:
            return [step async for step in turns.steps(work)]

        leaving = asyncio.ensure_future(consume(slow))
        await asyncio.to_thread(entered.wait, 20)
        staying = asyncio.ensure_future(consume(quick))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        gate.set()
        assert await staying == [2]
        turns.close()

    asyncio.run(run())
    assert order == ["computed", "closed", "next"]
