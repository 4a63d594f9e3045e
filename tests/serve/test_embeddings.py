"""`POST /v1/embeddings` as the official client sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openai
import pytest


@pytest.fixture
def client(start: Any, scripted: Any) -> openai.OpenAI:
    class Encoder(scripted):  # type: ignore[misc]
        """The vector of a text: its length, its first id, and whether an adapter made it."""

        def embed(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> np.ndarray:
            return np.array([[len(ids), ids[0], adapter is not None] for ids in sequences], dtype=np.float32)

    client: openai.OpenAI = start(Encoder()).client()
    return client


@pytest.mark.parametrize("format", ["float", "base64"])
def test_texts_become_vectors_in_order(client: openai.OpenAI, format: Any) -> None:
    reply = client.embeddings.create(model="tickets", input=["abc", "b"], encoding_format=format)
    vectors = [item.embedding for item in reply.data]
    if format == "base64":
        import base64

        vectors = [np.frombuffer(base64.b64decode(str(vector)), dtype="<f4").tolist() for vector in vectors]
    assert vectors == [[3.0, 97.0, 1.0], [1.0, 98.0, 1.0]]
    assert [item.index for item in reply.data] == [0, 1]
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens, reply.model) == (4, 4, "tickets")


def test_the_clients_own_way_and_ids(client: openai.OpenAI) -> None:
    assert client.embeddings.create(model="base", input="abc").data[0].embedding == [3.0, 97.0, 0.0]
    assert client.embeddings.create(model="base", input=[7, 8]).data[0].embedding == [2.0, 7.0, 0.0]


@pytest.mark.parametrize(
    ("asked", "param"), [({"input": []}, "input"), ({"input": "a", "dimensions": 8}, "dimensions")]
)
def test_what_cannot_be_answered_is_refused(client: openai.OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="base", **asked)
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)


def test_a_base_that_is_no_encoder_says_so(start: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="gives no embeddings"):
        start().client().embeddings.create(model="base", input="a")
