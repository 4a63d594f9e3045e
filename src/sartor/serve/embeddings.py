"""`POST /v1/embeddings`: texts in, vectors out, in OpenAI's shapes. Bases that are no encoders say that they cannot."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from sartor.errors import UserError
from sartor.generate.embedder import embedder
from sartor.serve.desk import Desk, Served
from sartor.serve.errors import refused
from sartor.serve.streams import reply
from sartor.serve.wire import Wire, only, read
from sartor.types import Json, Message

MOST_TEXTS = 2048


def _as_list(value: Any) -> Any:
    """One text, or one list of ids, is a list of one."""
    one = isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], int))
    return [value] if one else value


def _as_text(value: Any) -> Any:
    """Here and not by the type: pydantic would put the names of a union's members into the place of an error."""
    ids = isinstance(value, list) and all(type(id) is int for id in value)  # the engine knows its vocabulary
    if value and (isinstance(value, str) or ids):
        return value
    raise PydanticCustomError("invalid_input", "Input should be a text or a list of token ids, and not empty")


Texts = Annotated[
    list[Annotated[str | list[int], BeforeValidator(_as_text)]], Field(min_length=1, max_length=MOST_TEXTS)
]


class EmbeddingRequest(Wire):
    """The body. `dimensions` would cut vectors, which these models are not made for."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Annotated[Texts, BeforeValidator(_as_list)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Any, only()] = None
    user: Any = None


async def embed(desk: Desk, http: Request) -> Response:
    """Answer one request.

    Raises:
        ApiError: the request cannot be answered as it is.
    """
    request = read(EmbeddingRequest, await http.body())
    model = desk.find(request.model)
    return await reply(http.receive, _embedded(request, model), JSONResponse)


async def _embedded(request: EmbeddingRequest, model: Served) -> Json:
    with model.turns.place():
        return await model.turns.call(partial(_body, request, model))


def _body(request: EmbeddingRequest, model: Served) -> Json:
    """The body of the reply. Renders and computes, so it belongs on the engine's thread."""
    try:
        sequences = [_ids(model, text) for text in request.input]
        vectors = embedder(model.turns.engine).embed(sequences, model.adapter)
    except UserError as error:
        raise refused(error, param="input", code="invalid_input") from error
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
            if request.encoding_format == "base64"
            else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    num_tokens = sum(map(len, sequences))
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _ids(model: Served, text: str | Sequence[int]) -> Sequence[int]:
    return model.renderer.prompt((Message(role="user", content=text),)) if isinstance(text, str) else text
