"""Run the server: bind, serve, drain, leave. It prints nothing; whoever starts it is told the address."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import uvicorn

from sartor.errors import UserError
from sartor.serve.app import create_app
from sartor.serve.chat_log import ChatLog
from sartor.serve.desk import Desk
from sartor.serve.guard import is_loopback
from sartor.serve.keys import Key

DRAIN_SECONDS = 30  # what orchestrators commonly grant between SIGTERM and SIGKILL
HEADER_BYTES = 32 << 10
BACKLOG = 128


def serve(
    desk: Desk,
    bound: socket.socket,
    *,
    key: Key,
    host: str = "127.0.0.1",
    log: ChatLog | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve on the socket of a host until SIGTERM or Ctrl-C; then answers that are under way are finished.

    `log` keeps the chats whose users agree to it. `ready` is called with the base URL of the API
    (`http://127.0.0.1:8000/v1`) when clients are answered.
    """
    config = uvicorn.Config(
        create_app(desk, key, host=host, log=log),
        http="h11",  # the strict parser
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # the app logs what fails, once, with its id
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = uvicorn.Server(config)
    with _signals_end_quietly(server), closing(desk):
        ready(f"http://{_written(host)}:{bound.getsockname()[1]}/v1")
        server.run(sockets=[bound])


def bind(host: str, port: int, *, behind_proxy: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. Clients that connect before `serve` has it wait.

    The protocol is named, because asyncio switches Nagle's algorithm off only on sockets that say TCP; with it a chunk
    of a stream would wait up to 40 ms for the acknowledgement of the one before.

    Raises:
        UserError: the host is open to others and no proxy is said to be in front, or is not this machine's; or the port
            is taken, or not a port.
    """
    if not is_loopback(host) and not behind_proxy:
        raise UserError(
            f"{host} can be reached from other machines, and this server speaks plain HTTP",
            hint="bind 127.0.0.1; or put a proxy with TLS in front and say so with `--behind-proxy`",
        )
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        with ExitStack() as on_failure:
            bound = on_failure.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address[0], port, *address[2:]))
            bound.listen(BACKLOG)
            on_failure.pop_all()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error}", hint="choose another `--port` or `--host`"
        ) from error
    return bound


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _signals_end_quietly(server: uvicorn.Server) -> Iterator[None]:
    """uvicorn drains on a signal and then raises it again, which would kill us: to us, being drained is success.

    A signal that comes before uvicorn listens to signals ends the server as it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
