"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`. Nothing else leaves the server.

Source of shape and codes: OpenAI's specification 2.3.0, and what the official client maps to its exceptions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.types import Scope

from sartor.errors import MachineError, UserError
from sartor.types import Json

log = logging.getLogger("sartor.serve")

#: Pydantic's kinds of error that have a code of OpenAI's; the rest is `invalid_type` or `invalid_value`.
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_value": "unsupported_value",
    "json_invalid": "invalid_json",
}
_LONGEST_ECHO = 200  # what a client sent comes back shortened, so that an error cannot be made large


class ApiError(Exception):
    """An answer that is an error: HTTP status, OpenAI's four fields, and headers that go with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, "type": type, "param": param, "code": code}}
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request can be mended by its sender."""
    return ApiError(400, message, param=param, code=code)


def refused(error: UserError, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the same, in the words of our own error."""
    return bad_request(f"{error.message}. {error.hint}", param=param, code=code)


def wrong_key(message: str) -> ApiError:
    """401: no key, or not ours."""
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def no_such_model(name: str, known: tuple[str, ...]) -> ApiError:
    """404: the name is not served; the message lists those that are."""
    message = f"The model {shortened(name)!r} does not exist here. Served: {', '.join(known)}."
    return ApiError(404, message, param="model", code="model_not_found")


def no_such_route(method: str, path: str) -> ApiError:
    """404: nothing answers at this path."""
    return ApiError(404, f"Invalid URL ({method} {shortened(path)})", code="unknown_url")


def wrong_method(method: str, path: str, headers: Mapping[str, str]) -> ApiError:
    """405, with the `Allow` header that the router gives."""
    message = f"Not allowed to {method} on {shortened(path)}."
    return ApiError(405, message, code="method_not_allowed", headers=headers)


def incident(identifier: str) -> ApiError:
    """500: ours. The client gets the number under which the log has the rest, and no detail.

    The same request would fail again, so the client is told not to retry.
    """
    message = f"Something failed on the server; this is not your request's fault. Its log has it as {identifier}."
    headers = {"x-should-retry": "false", "x-request-id": identifier}
    return ApiError(500, message, type="server_error", code="internal_error", headers=headers)


def unavailable(identifier: str) -> ApiError:
    """503: the machine's or the engine's. Another try may do, and the official client makes it by itself."""
    message = f"The machine or its engine failed. Try again in a moment; the server's log has it as {identifier}."
    return ApiError(503, message, type="server_error", code="unavailable")


def from_error(error: BaseException, scope: Scope) -> ApiError:
    """What a client is told of whatever went wrong with its request; the log has what is not the client's to mend."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return refused(error)
    identifier = scope["state"]["request_id"]
    asked = f"{identifier}: {scope['method']} {scope['path']}"
    if isinstance(error, MachineError):
        log.error("%s: %s; %s", asked, error, error.hint)
        return unavailable(identifier)
    log.error("%s failed", asked, exc_info=error)
    return incident(identifier)


def from_validation(error: ValidationError) -> ApiError:
    """400 for the first thing that is wrong with a body, naming the parameter."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    param = parameter(first["loc"]) + context.get("below", "")
    code = _CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value")
    if code == "missing_required_parameter":
        message = f"Missing required parameter: '{param}'."
    elif code == "unknown_parameter":
        message = f"Unknown parameter: '{shortened(param)}'."
    elif code == "invalid_json":
        message = f"The body is not valid JSON: {first['ctx']['error']}."
    else:
        message = f"Invalid value for '{param}': {first['msg']}." if param else f"The body: {first['msg']}."
    return bad_request(message, param=shortened(param) or None, code=code)


def parameter(path: tuple[int | str, ...]) -> str:
    """A place in the body as OpenAI writes it: `messages[0].content[1].text`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def shortened(text: str) -> str:
    """At most 200 characters of what a client sent."""
    return text if len(text) <= _LONGEST_ECHO else text[:_LONGEST_ECHO] + "…"
