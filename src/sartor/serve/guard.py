"""What stands before every route, known or not: request id, host, key, origin, content type, size. Deny by default.

A new route needs a key without anybody thinking of it; `OPEN` is the whole list of exceptions.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sartor.serve.errors import ApiError, bad_request, wrong_key
from sartor.serve.keys import Key

#: The only requests that need no key.
OPEN = frozenset({("GET", "/health")})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

MAX_BODY_BYTES = 8 << 20
DRAINED_BYTES = 64 << 20  # of a body that is too large this much is read and dropped, so that its sender sees the 413
BODY_SECONDS = 30.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str) -> frozenset[str] | None:
    """Host names a browser may call us by, against DNS rebinding. `None`: a proxy is in front, and knows its names."""
    own = f"[{host}]" if ":" in host else host
    return frozenset({"localhost", "127.0.0.1", "[::1]", own}) if is_loopback(host) else None


class RequestId:
    """Gives each request an id, for the reply's `x-request-id` and for the log; and headers that every reply has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = identifier

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = identifier
                headers["x-content-type-options"] = "nosniff"
                headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_marked)


class Guard:
    """Lets a request through with its whole body read, or answers it with an error."""

    def __init__(
        self, app: ASGIApp, *, key: Key, hosts: frozenset[str] | None, body_seconds: float = BODY_SECONDS
    ) -> None:
        self._app = app
        self._key = key
        self._hosts = hosts
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            if (scope["method"], scope["path"]) not in OPEN:
                self._check_key(headers)
            if scope["method"] not in SAFE:
                _check_origin(headers)
            if scope["method"] in WITH_BODY:
                _check_content(headers)
                receive = _replayed(await self._body(headers, receive), receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        if len(given) != 1:
            raise bad_request("Exactly one Host header is needed.")
        if self._hosts is not None and _name(given[0]) not in self._hosts:
            raise ApiError(421, "This server does not answer to that Host.", code="wrong_host")

    def _check_key(self, headers: Headers) -> None:
        given = headers.getlist("authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not key:
            raise wrong_key("A key is needed: send `Authorization: Bearer <key>`.")
        if not self._key.matches(key.strip()):
            raise wrong_key("That key is not this server's key.")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            ApiError: 413 larger than allowed, announced or not; 408 not here in time.
        """
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > DRAINED_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(self._body_seconds):
                return await _read(receive)
        except TimeoutError as error:
            message = f"The body did not arrive within {self._body_seconds:g} seconds."
            raise ApiError(408, message, code="request_timeout", headers={"Connection": "close"}) from error


def _name(host: str) -> str:
    """A Host header without its port, in lower case."""
    host = host.lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _check_origin(headers: Headers) -> None:
    """A browser page of another origin may not act here; programs send no Origin. It is `scheme://host` and no more."""
    for origin in headers.getlist("origin"):
        if origin.partition("://")[2].lower() != headers["host"].lower():
            raise ApiError(403, "Requests from other web pages are refused.", code="wrong_origin")


def _check_content(headers: Headers) -> None:
    kind, _, parameters = headers.get("content-type", "").partition(";")
    name, _, charset = parameters.partition("=")
    if kind.strip().lower() != "application/json":
        raise ApiError(415, "Send the body as `Content-Type: application/json`.", code="unsupported_media_type")
    if name.strip().lower() == "charset" and charset.strip('" ').lower() not in {"utf-8", "utf8"}:
        raise ApiError(415, "JSON comes in UTF-8.", code="unsupported_media_type")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Send the body without compression.", code="unsupported_media_type")


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= DRAINED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > MAX_BODY_BYTES:
            parts.clear()
        else:
            parts.append(part)
    if size > MAX_BODY_BYTES:
        raise _too_large()
    return b"".join(parts)


def _too_large() -> ApiError:
    message = f"The body is larger than {MAX_BODY_BYTES >> 20} MiB."
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what really comes: the client going away."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
