"""Any endpoint that speaks OpenAI's chat API: many questions at once, each answered, or failed by name.

What is passing (busy, overloaded, silent, broken off, garbled, empty) is tried again, after a wait that doubles and is
drawn with a seed, or as long as the server asks for. What no question would survive ends the job with an error.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import os
import queue
import random
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from sartor.ask import Answer, Question, Wish, wire
from sartor.ask.spending import Prices
from sartor.data.extra import needs
from sartor.errors import MachineError, SartorError, UserError
from sartor.types import Frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

#: Seconds before the second try; it doubles with each, and each is drawn between half and the whole of it.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
CONNECT_SECONDS = 10.0
UNREACHABLE = "unreachable"
#: As many characters of a key in a row are never told: what is shown of a reply may begin or end in the middle of one.
PIECE = 8
_VARIABLE = re.compile(r"(?:[A-Za-z_]\w*)?", re.ASCII)

Sleep = Callable[[float], Awaitable[None]]


class Config(Frozen):
    """Where to ask, and how patiently. A secret that is typed into it is refused, and not shown."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = Field(description="The base of the API, such as http://localhost:8000/v1.")
    model: str = Field(description="The model's name there.")
    key: str = Field(default="", description="The name of the environment variable that holds the key; empty: no key.")
    concurrency: int = Field(default=4, ge=1, le=256, description="Questions under way at once.")
    timeout: float = Field(default=120.0, gt=0, description="Seconds for one try, from sending to the last byte.")
    tries: int = Field(default=6, ge=1, le=20, description="How often a question is put before it has failed.")
    patience: float = Field(default=300.0, ge=0, description="The longest wait in seconds that a server may ask for.")
    prices: Prices = Field(default_factory=Prices, description="What tokens cost there, for the sum on the card.")

    @field_validator("url", mode="before")
    @classmethod
    def _is_a_base(cls, value: Any) -> Any:
        if not isinstance(value, str) or not _is_base(value):
            raise ValueError(
                "it is the base of an API, such as http://localhost:8000/v1, without user, password and query; "
                "`key` names the variable that holds a key"
            )
        return value

    @field_validator("key", mode="before")
    @classmethod
    def _is_a_name(cls, value: Any) -> Any:
        if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
            raise ValueError("it names an environment variable that holds the key, such as MY_KEY")
        return value


@dataclass(slots=True)
class _Job:
    """One call of `ask`: what is still to be asked, and where answers go. None after the last one."""

    questions: Iterator[Question]
    wish: Wish
    done: queue.SimpleQueue[Answer | BaseException | None]
    client: httpx2.AsyncClient


@dataclass(slots=True)
class _Account:
    """What one question has taken so far, over all tries."""

    key: str
    began: float = field(default_factory=time.monotonic)
    tries: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False

    def add(self, reply: wire.Reply | None) -> None:
        if reply is not None:
            self.prompt_tokens += reply.prompt_tokens
            self.output_tokens += reply.output_tokens
            self.estimated |= reply.estimated

    def answer(self, *, text: str = "", failure: str = "", truncated: bool = False) -> Answer:
        return Answer(
            key=self.key,
            text=text,
            failure=failure,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            seconds=round(time.monotonic() - self.began, 3),
            truncated=truncated,
            estimated=self.estimated,
            tries=self.tries,
        )


class Endpoint:
    """See `ask.Asker`. The key is read once, and stands in no message and no representation.

    Args:
        config: where and how.
        sleep: how to wait between two tries.
    """

    def __init__(self, config: Config, *, sleep: Sleep = asyncio.sleep) -> None:
        needs("httpx2")
        self.name = config.model
        self._config = config
        self._key = _key(config.key)
        self._local = _is_local(config.url)
        if self._key and not self._local:
            _refuse_plain_text(config.url)
        self._sleep = sleep
        self._manner = wire.Manner()

    def ask(self, questions: Iterable[Question], wish: Wish) -> Iterator[Answer]:
        """Ask them on an event loop in a thread of its own; leaving the loop early takes back what is under way.

        Raises:
            UserError: the server takes no question at all: the key, the model or the address is wrong.
            MachineError: nobody answers there.
        """
        done: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._work(iter(questions), wish, done))
        thread = threading.Thread(target=_run, args=(loop, work, done), name="sartor-ask", daemon=True)
        thread.start()
        try:
            while (found := done.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            if thread.is_alive():
                loop.call_soon_threadsafe(work.cancel)
            thread.join()
            loop.close()

    def close(self) -> None:
        """Nothing is kept open between two calls."""

    async def _work(
        self, questions: Iterator[Question], wish: Wish, done: queue.SimpleQueue[Answer | BaseException | None]
    ) -> None:
        """All questions, so many at once. The first error ends all of it."""
        async with self._client() as client:
            job = _Job(questions, wish, done, client)
            workers = [asyncio.ensure_future(self._worker(job)) for _ in range(self._config.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, job: _Job) -> None:
        for question in job.questions:
            job.done.put(await self._answer(question, job))

    async def _answer(self, question: Question, job: _Job) -> Answer:
        """One question, put until there is an answer, no hope, or no patience left."""
        account = _Account(question.key)
        draw = random.Random(f"{job.wish.seed}:{question.key}")  # noqa: S311 - it spreads waits, nothing is secret
        for tries in itertools.count(1):
            try:
                reply = await self._fitting(question, job, account)
            except wire.Trouble as trouble:
                told = self._hidden(str(trouble))
                given_up = tries == self._config.tries or trouble.wait > self._config.patience
                if trouble.fatal or (trouble.reason == UNREACHABLE and given_up):
                    raise self._error(trouble.reason, told) from None
                if given_up or not trouble.again:
                    return account.answer(failure=told)
                await self._sleep(max(trouble.wait, _wait(tries, draw)))
            else:
                return account.answer(text=reply.text, truncated=reply.truncated)
        raise AssertionError("counting never ends")

    async def _fitting(self, question: Question, job: _Job, account: _Account) -> wire.Reply:
        """Send it, in other manners as long as the server refuses a parameter; the one that it takes is kept.

        Raises:
            Trouble: whatever came of it is no answer.
        """
        manner = self._manner
        while True:
            account.tries += 1
            try:
                reply = await self._once(question, job, manner)
            except wire.Trouble as trouble:
                account.add(trouble.reply)
                wants = job.wish.schema is not None
                other = manner.other(str(trouble), wants_schema=wants) if trouble.refused else None
                if other is None:
                    raise
                manner = other
            else:
                account.add(reply)
                self._manner = manner
                return reply

    async def _once(self, question: Question, job: _Job, manner: wire.Manner) -> wire.Reply:
        """Send it once.

        Raises:
            Trouble: whatever came of it is no answer.
        """
        import httpx2

        body = wire.payload(self._config.model, question, job.wish, manner)
        try:
            async with asyncio.timeout(self._config.timeout):
                return await self._sent(job.client, body, question)
        except TimeoutError as error:
            raise wire.Trouble("timeout", f"no whole answer in {self._config.timeout:g} s", again=True) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise wire.Trouble(UNREACHABLE, str(error), again=True) from error
        except httpx2.RequestError as error:
            raise wire.Trouble("broken_off", str(error) or type(error).__name__, again=True) from error

    async def _sent(self, client: httpx2.AsyncClient, body: object, question: Question) -> wire.Reply:
        async with client.stream("POST", "chat/completions", json=body) as response:
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > wire.LONGEST:
                    raise wire.Trouble("too_long", f"a reply of more than {wire.LONGEST:,} bytes", again=False)
            if response.status_code != 200:
                raise wire.refusal(response.status_code, response.headers, bytes(content), time.time())
            return wire.read_reply(bytes(content), question.messages)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx2.AsyncClient]:
        import httpx2

        headers = {"accept-encoding": "identity"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        async with httpx2.AsyncClient(
            base_url=self._config.url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx2.Timeout(self._config.timeout, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None),  # the number of workers is the bound
            verify=_trusted(),
            trust_env=not self._local,  # a proxy has no business between us and this machine
        ) as client:
            yield client

    def _error(self, reason: str, told: str) -> SartorError:
        hints = {
            "http_401": f"check the key in the environment variable {self._config.key or '(none was named)'}",
            "http_403": f"check the key in the environment variable {self._config.key or '(none was named)'}",
            "http_404": f"check the model's name {self._config.model!r} and the url, which mostly ends in /v1",
            "http_405": "the url is that of the API, which mostly ends in /v1",
            UNREACHABLE: "start it, or correct the url; then run the same command again",
        }
        hint = hints.get(reason, "mend it there, then run the same command again: nothing that was answered is lost")
        kind = MachineError if reason == UNREACHABLE else UserError
        return kind(f"{self._config.url} takes no questions: {told}", hint=hint)

    def _hidden(self, text: str) -> str:
        """What is told of a trouble, without the key and its pieces. An answer is no trouble, and stays as it is."""
        pieces = [self._key, *(self._key[at : at + PIECE] for at in range(len(self._key) - PIECE + 1))]
        return re.sub("|".join(map(re.escape, pieces)), "…", text) if self._key else text


def open_asker(config: Config) -> Endpoint:
    """An asker of that endpoint. Nothing is sent yet.

    Raises:
        UserError: the url or the key cannot be used, or a library is missing.
    """
    return Endpoint(config)


def _run(
    loop: asyncio.AbstractEventLoop,
    work: asyncio.Task[None],
    done: queue.SimpleQueue[Answer | BaseException | None],
) -> None:
    """The thread: the work to its end, and then either its error or the sign that all is done."""
    try:
        loop.run_until_complete(work)
        done.put(None)
    except asyncio.CancelledError:
        done.put(None)
    except BaseException as error:  # noqa: BLE001 - it is raised again where the answers are read
        done.put(error)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes a tenth of a second."""
    import httpx2

    return httpx2.create_ssl_context()


def _wait(tries: int, draw: random.Random) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * draw.uniform(0.5, 1.0)


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set, and should hold the endpoint's key",
            hint=f"export {variable}=…, or leave `key` out where none is needed",
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"the key in {variable} has characters that no header can hold", hint="copy it again")
    return key


def _is_base(url: str) -> bool:
    """Whether it is the url of an API, and tells no secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    extra = "@" in parts.netloc or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(host) and not extra


def _is_local(url: str) -> bool:
    """Whether it is on this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or _is_loopback(host)


def _refuse_plain_text(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http":
        raise UserError(f"the key would go to {parts.hostname} in plain text", hint="use https, or leave `key` out")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
