"""An HTTP client that connects to the very address that was checked, and to no other.

The name stays in the Host header and in TLS, so certificates are checked as ever. There is no proxy, whatever the
environment says: behind one, nobody could tell where a connection ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore2
import httpx2

#: The addresses to try for a host and a port, all of them checked.
Resolve = Callable[[str, int], list[str]]

#: What goes wrong on the way to a server and back.
BROKEN = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.TransportError)


def client(resolve: Resolve, *, seconds: float, agent: str) -> httpx2.Client:
    """A client that follows no redirects, keeps no cookies of ours, and connects where `resolve` says.

    Args:
        resolve: gives the checked addresses of a host.
        seconds: how long it waits for a connection, and for each part of an answer.
        agent: who we say we are.
    """
    headers = {"User-Agent": agent, "Accept-Encoding": "gzip", "Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    return httpx2.Client(
        transport=Checked(resolve), timeout=seconds, headers=headers, follow_redirects=False, trust_env=False
    )


class Checked(httpx2.BaseTransport):
    """httpx's own transport, but for the network below it."""

    def __init__(self, resolve: Resolve) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=4,
            max_keepalive_connections=4,
            keepalive_expiry=30,
            network_backend=_Network(resolve),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        raw = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=b"",
            extensions=request.extensions,
        )
        answer = self._pool.handle_request(raw)
        return httpx2.Response(answer.status, headers=answer.headers, stream=_Stream(answer))

    def close(self) -> None:
        self._pool.close()


class _Stream(httpx2.SyncByteStream):
    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore2.NetworkBackend):
    """Connections by TCP alone, to checked addresses, one after the other until one answers."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._real = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        *others, last = self._resolve(host, port)
        for address in others:
            with contextlib.suppress(httpcore2.TimeoutException, httpcore2.NetworkError):
                return self._real.connect_tcp(address, port, timeout, local_address, socket_options)
        return self._real.connect_tcp(last, port, timeout, local_address, socket_options)

    def sleep(self, seconds: float) -> None:
        self._real.sleep(seconds)
