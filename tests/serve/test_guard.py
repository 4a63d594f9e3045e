"""What stands before the routes: key, host, origin, content type, size; and errors in OpenAI's shape for all of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from sartor.serve.app import create_app
from sartor.serve.guard import MAX_BODY_BYTES, OPEN, Guard, allowed_hosts, is_loopback
from sartor.serve.keys import Key

CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ROUTES = ("/health", "/v1/models", "/v1/models/base", CHAT, TEXT, EMBEDDINGS)
PATHS = (*ROUTES, "/", "/docs", "/openapi.json", "/v1/nothing", "/health/")


def error_of(reply: httpx2.Response) -> dict[str, Any]:
    """The error of a reply, after checking that it has OpenAI's shape."""
    body = reply.json()
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and reply.headers["x-request-id"].startswith("req_")
    return dict(body["error"])


def test_the_walked_paths_are_all_there_are(server: Any) -> None:
    routes = {route.path for route in create_app(server.desk, Key("k", "test")).routes if isinstance(route, APIRoute)}
    assert {"/health", "/v1/models", "/v1/models/{name:path}", CHAT, TEXT, EMBEDDINGS} == routes


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-wrong"}], ids=["no key", "wrong key"])
def test_every_route_and_method_needs_the_key_but_health(server: Any, headers: dict[str, str]) -> None:
    with httpx2.Client(base_url=server.url, headers=headers) as client:
        statuses = {(method, path): client.request(method, path).status_code for method in METHODS for path in PATHS}
    assert {pair for pair, status in statuses.items() if status != 401} == {("GET", "/health")} == OPEN
    assert statuses["GET", "/health"] == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Basic sk-test-key", "sk-test-key", "Bearer sk-test-key x", "Bearer SK-TEST-KEY", "é"],
)
def test_keys_that_are_none(server: Any, header: str) -> None:
    with httpx2.Client(base_url=server.url, headers={"Authorization": header.encode()}) as client:
        reply = client.get("/v1/models")
    assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    assert error_of(reply)["code"] == "invalid_api_key"


def test_two_authorizations_are_none(server: Any) -> None:
    twice = [("Authorization", "Bearer sk-test-key")] * 2
    assert httpx2.get(f"{server.url}/v1/models", headers=twice).status_code == 401
    assert httpx2.get(f"{server.url}/v1/models", headers=[("Authorization", "bearer sk-test-key")]).status_code == 200


def test_unknown_routes_and_wrong_methods(server: Any) -> None:
    with server.http() as client:
        missing = client.get("/v1/nothing")
        assert missing.status_code == 404 and error_of(missing)["message"] == "Invalid URL (GET /v1/nothing)"
        assert client.get("/v1/models/").status_code == 404
        for method, path, allowed in [("GET", CHAT, "POST"), ("DELETE", "/v1/models", "GET"), ("TRACE", "/", None)]:
            wrong = client.request(method, path)
            assert wrong.status_code == (405 if allowed else 404) and wrong.headers.get("allow") == allowed
            assert error_of(wrong)["type"] == "invalid_request_error"
        assert len(error_of(client.get("/" + "x" * 5000))["message"]) < 300


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.", False),
        ("localhost@evil.example", False),
    ],
)
def test_only_our_own_host_names(server: Any, host: str, fits: bool) -> None:
    for path in ("/health", "/v1/models"):
        with server.http(Host=host) as client:
            reply = client.get(path)
        assert reply.status_code == (200 if fits else 421)
        assert fits or error_of(reply)["code"] == "wrong_host"


def test_behind_a_proxy_any_host_name_is_fine(start: Any) -> None:
    with start(host="0.0.0.0").http(Host="chat.example.com") as client:
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
        ("http://[", 403),
        ("http://localhost:7000", 200),
    ],
)
def test_pages_of_other_origins_may_not_post(server: Any, chat: Any, origin: str, status: int) -> None:
    with server.http(Origin=origin, Host="localhost:7000") as client:
        assert client.post(CHAT, json=chat()).status_code == status
        assert "access-control-allow-origin" not in client.get("/v1/models").headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/jsonp"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
    ],
)
def test_only_json_is_read(server: Any, chat: Any, headers: dict[str, str], status: int) -> None:
    with server.http() as client:
        reply = client.post(CHAT, content=json.dumps(chat()).encode(), headers=headers)
    assert reply.status_code == status
    assert status == 200 or error_of(reply)["code"] == "unsupported_media_type"


def blob(size: int) -> Iterator[bytes]:
    """A body without Content-Length: the client sends it in chunks."""
    for _ in range(size >> 16):
        yield b" " * (1 << 16)


def test_bodies_over_eight_mebibytes_are_refused_before_parsing(server: Any, chat: Any) -> None:
    body = json.dumps(chat()).encode()
    fits = body + b" " * (MAX_BODY_BYTES - len(body))
    json_type = {"Content-Type": "application/json"}
    with server.http() as client:
        assert client.post(CHAT, content=fits, headers=json_type).status_code == 200
        for content in (fits + b" ", blob(MAX_BODY_BYTES + (1 << 16)), blob(3 * MAX_BODY_BYTES)):
            reply = client.post(CHAT, content=content, headers=json_type)
            assert reply.status_code == 413 and error_of(reply)["code"] == "request_too_large"
        assert client.post("/v1/nothing", content=fits + b" ", headers=json_type).status_code == 413


def test_a_giant_announced_body_is_not_read_at_all() -> None:
    async def unread() -> Any:
        raise AssertionError("it was read")

    assert run_guard(unread, [(b"content-length", b"99999999999")]) == 413


def test_a_body_that_never_comes_is_not_waited_for() -> None:
    async def never() -> Any:
        await asyncio.sleep(3600)

    assert run_guard(never, []) == 408


def run_guard(receive: Any, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of a POST that the guard answers by itself."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was let through")

    async def send(message: Any) -> None:
        sent.append(message)

    own = [(b"host", b"localhost"), (b"authorization", b"Bearer k"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [*own, *headers]}
    guard = Guard(app, key=Key("k", "test"), hosts=allowed_hosts("localhost"), body_seconds=0.01)
    asyncio.run(guard(scope, receive, send))
    return int(sent[0]["status"])


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing(*_: Any) -> None:
        raise AssertionError

    guard = Guard(nothing, key=Key("k", "test"), hosts=None)
    asyncio.run(guard({"type": "websocket", "path": "/v1/models", "headers": []}, nothing, send))
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "")),
    ],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert (allowed_hosts(host) is not None) is loopback
