"""A web site on loopback, made of a table: it counts what it is asked, and errs as it is told."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sartor.collect import Clock


@dataclass(frozen=True)
class Page:
    """One answer."""

    body: bytes | str = ""
    status: int = 200
    kind: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


#: What is served at a path; a function is told how often the path was asked before, and the headers of the request.
Answer = Page | Callable[[int, dict[str, str]], Page]


@dataclass
class Site:
    """A running site."""

    pages: dict[str, Answer]
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str = "/") -> str:
        return self.address + path

    def counted(self, path: str) -> int:
        return self.asked.count(path)

    def answer(self, path: str, headers: dict[str, str]) -> Page:
        with self.lock:
            before = self.asked.count(path)
            self.asked.append(path)
            self.headers.append(headers)
        found = self.pages.get(path, Page("no such page", 404))
        return found if isinstance(found, Page) else found(before, headers)


@contextlib.contextmanager
def serving(pages: dict[str, Answer]) -> Iterator[Site]:
    """Serve until the block is left."""
    site = Site(pages)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            page = site.answer(self.path, {name.lower(): value for name, value in self.headers.items()})
            body = page.body.encode() if isinstance(page.body, str) else page.body
            self.send_response(page.status)
            given = {"Content-Type": page.kind, "Content-Length": str(len(body)), **page.headers}
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body if self.command == "GET" else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class FakeTime:
    """A clock that only waiting moves."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def clock(self) -> Clock:
        start = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        return Clock(lambda: start + datetime.timedelta(seconds=self.seconds), lambda: self.seconds, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


def html(text: str = "", *links: str, head: str = "") -> str:
    """A page with a paragraph and links."""
    anchors = " ".join(f'<a href="{link}">{link}</a>' for link in links)
    title = f"<title>{text[:20]}</title>"
    return f"<html lang=en><head>{title}{head}</head><body><main><p>{text} is a page.</p></main><nav>{anchors}</nav>"
