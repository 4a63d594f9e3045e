"""HTTP to a vLLM server, and what its answers mean. Whatever goes wrong becomes an error with a way out."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx2

from sartor.errors import MachineError, SartorError, UserError
from sartor.generate.vllm.server import Address
from sartor.types import Json

CONNECT_SECONDS = 10.0
NOT_VLLM = "is it vLLM 0.10.2 or newer? An older one, and other servers of OpenAI's API, do not give token ids"
LORA = (
    "start it with `--enable-lora --lora-modules NAME=FOLDER`, or with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and the "
    "folder at the same path on its machine"
)
_LOG = "see the log of the server"

T = TypeVar("T")


class Wire:
    """HTTP to one server, on an event loop in a thread of its own: cancelling a task closes its connection."""

    def __init__(self, address: Address, patience: float) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sartor-vllm", daemon=True)
        self._thread.start()
        self._client = httpx2.AsyncClient(
            base_url=address.url,
            headers={"authorization": f"Bearer {address.key}"} if address.key else {},
            timeout=httpx2.Timeout(patience, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None),  # vLLM has the queue, and orders it better
            trust_env=False,
        )
        self._patience = patience

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.begin(work).result()

    async def send(self, method: str, path: str, asked: Json | None = None) -> httpx2.Response:
        try:
            return await self._client.request(method, path, json=asked)
        except httpx2.TransportError as error:
            raise self._broken(error) from error

    async def ask(self, method: str, path: str, asked: Json | None = None) -> Json:
        """The JSON object that answers; a refusal is an error of ours."""
        answer = await self.send(method, path, asked)
        self._refuse(answer)
        return _object(answer.text)

    async def events(self, path: str, asked: Json) -> AsyncIterator[Json]:
        """The JSON objects of a stream of server-sent events, which must end with `[DONE]`."""
        try:
            async with self._client.stream("POST", path, json=asked) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    self._refuse(answer, wrong_server=MachineError)  # whoever asks cannot mend that
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    if line.startswith("data:"):
                        yield _object(data)
        except httpx2.TransportError as error:
            raise self._broken(error) from error
        raise MachineError(f"{self._address.url} broke off within an answer", hint=_LOG)

    def close(self) -> None:
        if self._loop.is_running():
            self.wait(self._client.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _broken(self, error: httpx2.TransportError) -> SartorError:
        url = self._address.url
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            return MachineError(f"no vLLM server answers at {url}", hint="start it, or correct SARTOR_VLLM_URL")
        if isinstance(error, httpx2.TimeoutException):
            return MachineError(
                f"{url} said nothing for {self._patience:g} s", hint="see its log: it hangs, or has too much to do"
            )
        return MachineError(f"{url} broke the connection: {error}", hint="see the log of the server; it may have died")

    def _refuse(
        self, answer: httpx2.Response, *, wrong_server: type[UserError] | type[MachineError] = UserError
    ) -> None:
        """Turn a status that is not 200 into the error of whoever can mend it.

        `wrong_server` is for a key or a name that the server does not know: at opening the mistake of whoever opens.
        """
        status, url = answer.status_code, self._address.url
        if status in (401, 403):
            raise wrong_server(f"{url} does not accept the key", hint="put the server's --api-key into SARTOR_VLLM_KEY")
        if status == 404:
            raise wrong_server(f"{url} knows no such thing: {message(answer)}", hint=LORA)
        if status in (400, 413, 422):
            raise UserError(f"{url} refuses the request: {message(answer)}", hint="shorten the prompt, or " + LORA)
        if status != 200:
            raise MachineError(f"{url} answered {status}: {message(answer)}", hint=_LOG)


def _object(text: str) -> Json:
    """A JSON object of the server's, which may be its way to say that something went wrong."""
    try:
        read = json.loads(text)
    except ValueError as error:
        raise MachineError(f"the server answered what is no JSON: {text[:80]!r}", hint=NOT_VLLM) from error
    if not isinstance(read, dict):
        raise MachineError(f"the server answered what is no JSON object: {text[:80]!r}", hint=NOT_VLLM)
    if "error" in read:
        raise MachineError(f"vLLM failed: {_said(read)}", hint=_LOG)
    return read


def only_choice(answer: Json) -> Json:
    """The only choice of an answer; of a part that holds none, such as the usage, an empty one."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) > 1 or not all(isinstance(each, dict) for each in choices):
        raise MachineError(f"the server answered without a choice: {str(answer)[:80]}", hint=NOT_VLLM)
    return choices[0] if choices else {"token_ids": []}


def token_ids(choice: Json) -> list[int]:
    """The tokens of a part, with the stop token that ended it: vLLM names that one in `stop_reason` as well."""
    ids, stop = choice.get("token_ids"), choice.get("stop_reason")
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise MachineError("the server answered without token ids", hint=NOT_VLLM)
    return [*ids, stop] if isinstance(stop, int) and ids[-1:] != [stop] else ids


def message(answer: httpx2.Response) -> str:
    """What a refusal says, in vLLM's form or in any other."""
    try:
        return _said(answer.json())
    except ValueError:
        return answer.text[:300]


def _said(read: Any) -> str:
    error = read.get("error", read) if isinstance(read, dict) else read
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
