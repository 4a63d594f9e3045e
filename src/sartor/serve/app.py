"""The application: six routes behind the guard, and every error in OpenAI's shape."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from sartor.errors import SartorError
from sartor.serve.chat_log import ChatLog
from sartor.serve.completions import complete
from sartor.serve.continuations import continued
from sartor.serve.desk import Desk, Served
from sartor.serve.embeddings import embed
from sartor.serve.errors import ApiError, from_error, no_such_route, wrong_method
from sartor.serve.guard import Guard, RequestId, allowed_hosts
from sartor.serve.keys import Key
from sartor.serve.replies import ModelCard, ModelList


def create_app(desk: Desk, key: Key, *, host: str = "127.0.0.1", log: ChatLog | None = None) -> FastAPI:
    """The server for a desk, behind a key. `host` is what it is bound to: it decides which Host headers are ours.

    `log` keeps the chats whose users agree to it.
    """
    app = FastAPI(title="Sartor", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, key=key, hosts=allowed_hosts(host))
    app.add_middleware(RequestId)  # added last, so it stands before the guard
    for kind in (ApiError, SartorError, Exception):  # the last for what nobody foresaw
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(HTTPException, _http_error)
    _add_routes(app, desk, log)
    return app


def _add_routes(app: FastAPI, desk: Desk, log: ChatLog | None) -> None:
    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models")
    async def models() -> Response:
        listed: ModelList = {"object": "list", "data": [_card(model) for model in desk.models]}
        return JSONResponse(listed)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(_card(desk.find(name)))

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        return await complete(desk, http, log)

    @app.post("/v1/completions")
    async def texts(http: Request) -> Response:
        return await continued(desk, http)

    @app.post("/v1/embeddings")
    async def embeddings(http: Request) -> Response:
        return await embed(desk, http)


def _card(model: Served) -> ModelCard:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "sartor",
        "parent": model.parent,
    }


async def _failed(request: Request, error: Exception) -> Response:
    return from_error(error, request.scope).response()


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself raises."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 404:
        return no_such_route(method, path).response()
    if error.status_code == 405:
        return wrong_method(method, path, error.headers or {}).response()
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response()
