"""The application: five routes behind the guard, and every error in OpenAI's shape."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from sartor.serve.chat_log import ChatLog
from sartor.serve.completions import complete
from sartor.serve.desk import Desk, Served
from sartor.serve.embeddings import embed
from sartor.serve.errors import ApiError, bad_request, incident, no_such_route, parameter, wrong_method
from sartor.serve.guard import Guard, RequestId, allowed_hosts
from sartor.serve.keys import Key
from sartor.serve.replies import ModelCard, ModelList

logger = logging.getLogger("sartor.serve")


def create_app(desk: Desk, key: Key, *, host: str = "127.0.0.1", log: ChatLog | None = None) -> FastAPI:
    """The server for a desk, behind a key. `host` is what it is bound to: it decides which Host headers are ours.

    `log` keeps the chats whose users agree to it.
    """
    app = FastAPI(title="Sartor", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, key=key, hosts=allowed_hosts(host))
    app.add_middleware(RequestId)  # added last, so it stands before the guard
    app.add_exception_handler(Exception, _broken)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
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


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself raises."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 404:
        return no_such_route(method, path).response()
    if error.status_code == 405:
        return wrong_method(method, path, error.headers or {}).response()
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response()


async def _invalid(_: Request, error: Exception) -> Response:
    """FastAPI's own validation, should a route ever use it: a 400 that names the parameter, never a 422."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = parameter(tuple(first["loc"])[1:])  # without "body", "query" or "path"
    return bad_request(f"Invalid value for '{param}': {first['msg']}.", param=param, code="invalid_value").response()


async def _broken(request: Request, error: Exception) -> Response:
    """Everything that nobody foresaw: the log has all of it, the client a number."""
    identifier = request.scope["state"]["request_id"]
    logger.error("%s: %s %s failed", identifier, request.method, request.url.path, exc_info=error)
    return incident(identifier).response()
