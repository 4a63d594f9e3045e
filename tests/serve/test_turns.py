"""Requests share a batch; who goes away makes room, and harms nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx2
import openai
import pytest

from sartor.errors import MachineError
from sartor.generate.protocol import Sampling, stream
from sartor.serve.answer import Answering, Piece, Question
from sartor.serve.errors import ApiError
from sartor.serve.turns import Turns

QUESTION = Question((104,), Sampling(9, frozenset({256})), None)


@contextmanager
def occupied(server: Any, chat: Any, eventually: Any, gate: threading.Semaphore) -> Iterator[None]:
    """While the engine's thread computes for a first client, who is answered afterwards."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.http().post, "/v1/chat/completions", json=chat())
        eventually(lambda: server.engine.stepping)
        yield
        gate.release(1000)
        assert first.result().status_code == 200
        assert first.result().json()["choices"][0]["message"]["content"] == "Hello, wörld 🙂!"


def test_requests_share_the_batch_on_one_thread(start: Any, scripted: Any, eventually: Any) -> None:
    gate = threading.Semaphore(0)
    server = start(scripted(gate=gate, script="word " * 50))

    def ask(name: str) -> str:
        reply = server.client().chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
        return str(reply.choices[0].message.content)

    def all_joined() -> bool:
        gate.release()  # who comes during a step joins after it
        return len(server.engine.rows) == 8

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, name) for name in ["base", "tickets"] * 4]
        eventually(all_joined)
        gate.release(10_000)
        assert [answer.result() for answer in answers] == ["word " * 50, "tickets: " + "word " * 50] * 4
    assert len(server.engine.threads) == 1
    assert server.engine.most_at_once == 8
    assert not server.engine.busy and server.engine.num_cancelled == 0


def test_a_late_request_joins_a_running_batch(start: Any, scripted: Any, chat: Any, eventually: Any) -> None:
    gate = threading.Semaphore(2)
    server = start(scripted(gate=gate, script="Hello " * 500))

    def ended() -> bool:
        gate.release()
        return late.done()

    with server.http() as client, client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as early:
        lines = (line for line in early.iter_lines() if line)
        assert next(lines).startswith("data: ")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(server.http().post, "/v1/chat/completions", json=chat(max_tokens=3))
            eventually(ended)
            assert late.result().json()["choices"][0]["message"]["content"] == "Hel"
        assert len(server.engine.rows) == 1  # the early one goes on
        gate.release(10_000)
        assert list(lines)[-1] == "data: [DONE]"


def test_a_streaming_client_that_leaves_frees_its_slot(start: Any, scripted: Any, chat: Any, eventually: Any) -> None:
    gate = threading.Semaphore(1)
    server = start(scripted(gate=gate))
    with server.http() as client, client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as reply:
        assert next(reply.iter_lines()).startswith("data: ")
    eventually(lambda: server.desk.find("base").turns._num_requests == 0)
    gate.release()  # the step that was being computed when the client left
    eventually(lambda: server.engine.num_cancelled == 1)
    assert len(server.engine.computed) <= 2
    gate.release(1000)
    assert server.http().post("/v1/chat/completions", json=chat()).json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_its_first_token_harms_nobody(
    start: Any, scripted: Any, chat: Any, eventually: Any, stream: bool
) -> None:
    gate = threading.Semaphore(0)
    server = start(scripted(gate=gate))
    turns = server.desk.find("base").turns
    with occupied(server, chat, eventually, gate), server.http() as client, pytest.raises(httpx2.ReadTimeout):
        body = chat(stream=stream, messages=[{"role": "user", "content": "late"}])
        with client.stream("POST", "/v1/chat/completions", json=body, timeout=httpx2.Timeout(20, read=0.3)) as reply:
            reply.read()
    eventually(lambda: turns._num_requests == 0 and not server.engine.busy)
    assert server.http().post("/v1/chat/completions", json=chat()).status_code == 200


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
    eventually(lambda: not server.engine.busy)
    assert server.desk.find("base").turns._num_requests == 0


def test_a_step_that_breaks_breaks_those_in_it_and_no_others(start: Any, scripted: Any, chat: Any) -> None:
    server = start(scripted(fails_at=3))
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: server.http().post("/v1/chat/completions", json=chat()), range(4)))
    assert {reply.status_code for reply in replies} == {500}
    server.engine.fails_at = None
    assert server.http().post("/v1/chat/completions", json=chat()).status_code == 200
    assert not server.engine.busy


def test_an_engine_that_breaks_again_when_a_request_leaves_is_told_to_all(start: Any, scripted: Any, chat: Any) -> None:
    engine = scripted(fails_at=3)
    cancel = engine.cancel

    def breaks(handle: int) -> None:
        cancel(handle)
        raise AttributeError("no such state")

    engine.cancel = breaks
    server = start(engine)
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda _: server.http().post("/v1/chat/completions", json=chat()), range(3)))
    assert {reply.status_code for reply in replies} == {500}
    engine.fails_at, engine.cancel = None, cancel
    assert server.http().post("/v1/chat/completions", json=chat()).status_code == 200


def test_there_is_an_end_to_how_many_may_ask(scripted: Any, byte_renderer: Any) -> None:
    async def crowd() -> None:
        gate = threading.Semaphore(0)
        turns = Turns(scripted(gate=gate, script="ab"), max_requests=2)
        question = Question((104,), Sampling(9, frozenset({256})), None)

        async def run() -> list[Piece]:
            with turns.place():
                begin = partial(Answering, turns.engine, byte_renderer(), question)
                return [piece async for piece in turns.steps(begin)]

        working = [asyncio.ensure_future(run()) for _ in range(2)]
        with turns.place():
            pass
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as full, turns.place():
            raise AssertionError
        assert full.value.status == 429 and "Retry-After" in full.value.headers
        gate.release(100)
        assert await asyncio.gather(*working) == [[Piece("a"), Piece("b"), Piece("", "stop")]] * 2
        assert turns._num_requests == 0
        turns.close()

    asyncio.run(crowd())


@pytest.mark.parametrize("stream", [False, True])
def test_who_comes_without_a_place_is_told_at_once_and_costs_nothing(
    start: Any, scripted: Any, chat: Any, eventually: Any, stream: bool
) -> None:
    gate = threading.Semaphore(0)
    server = start(scripted(gate=gate))
    server.desk.find("base").turns._max_requests = 1
    with occupied(server, chat, eventually, gate):  # its thread is busy, so nothing can be rendered
        with pytest.raises(openai.RateLimitError) as full:
            server.client().chat.completions.create(model="base", messages=chat()["messages"], stream=stream)
        assert (full.value.code, full.value.response.headers["retry-after"]) == ("queue_full", "1")
        assert len(server.renderer.seen) == 1
    assert server.http().post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_client_that_leaves_before_its_turn_is_not_even_rendered(
    start: Any, scripted: Any, chat: Any, eventually: Any
) -> None:
    gate = threading.Semaphore(0)
    server = start(scripted(gate=gate))
    turns = server.desk.find("base").turns
    with occupied(server, chat, eventually, gate):
        with server.http() as client, pytest.raises(httpx2.ReadTimeout):
            client.post("/v1/chat/completions", json=chat(), timeout=httpx2.Timeout(20, read=0.3))
        eventually(lambda: turns._num_requests == 1)
    assert len(server.renderer.seen) == 1


@pytest.mark.parametrize(("ways", "says"), [("refuses", "cannot be answered"), ("drops", "dropped request 1")])
def test_one_request_that_fails_or_is_lost_harms_no_other(
    scripted: Any, byte_renderer: Any, ways: str, says: str
) -> None:
    async def run() -> None:
        engine = scripted(script="ab", **{ways: {1}})
        turns = Turns(engine)

        async def ask() -> str:
            return "".join(
                [piece.text async for piece in turns.steps(lambda: Answering(engine, byte_renderer(), QUESTION))]
            )

        first, second, third = await asyncio.gather(ask(), ask(), ask(), return_exceptions=True)
        assert (first, third) == ("ab", "ab")
        assert isinstance(second, MachineError) and says in second.message and second.hint
        assert not engine.busy
        turns.close()

    asyncio.run(run())


def test_a_stream_says_what_failed_or_was_lost(scripted: Any) -> None:
    with pytest.raises(MachineError, match="cannot be answered"):
        list(stream(scripted(refuses={0}), [(104,)], QUESTION.sampling, None))
    engine = scripted(drops={1})
    with pytest.raises(MachineError, match="dropped request 1"):
        list(stream(engine, [(104,), (105,)], QUESTION.sampling, None))
    assert not engine.busy


def test_closing_ends_the_thread_after_its_step_and_says_so(scripted: Any, byte_renderer: Any) -> None:
    async def run() -> None:
        engine = scripted(script="word " * 1000)
        turns = Turns(engine)
        question = Question((104,), Sampling(9999, frozenset({256})), None)
        pieces = turns.steps(lambda: Answering(engine, byte_renderer(), question))
        assert (await anext(pieces)).text == "w"
        await asyncio.to_thread(turns.close)
        assert not engine.busy and engine.num_closed == 1
        computed = len(engine.computed)
        with pytest.raises(ApiError, match="closing"):
            async for _ in pieces:
                pass
        await asyncio.sleep(0.02)
        assert len(engine.computed) == computed < 5000
        turns.close()
        assert engine.num_closed == 1

    asyncio.run(run())


def test_after_closing_nothing_is_taken_and_nothing_breaks(scripted: Any, byte_renderer: Any) -> None:
    async def run() -> None:
        engine = scripted()
        turns = Turns(engine)
        turns.close()
        with pytest.raises(ApiError, match="closing"):
            await turns.call(lambda: 1)
        with pytest.raises(ApiError, match="closing"):
            await anext(turns.steps(lambda: Answering(engine, byte_renderer(), QUESTION)))
        assert engine.asked == []

    asyncio.run(run())
