"""`POST /v1/embeddings` as the official client sees it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from sartor.generate import padded

from ..padded_bases import write_bert  # noqa: TID252 - the tests are no package to import by name


@pytest.fixture
def encoder(scripted: Any) -> Any:
    class Encoder(scripted):  # type: ignore[misc]
        """The vector of a text: its length, its first id, and whether an adapter made it."""

        num_embedded = 0

        def embed(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> np.ndarray:
            self.num_embedded += 1
            return np.array([[len(ids), ids[0], adapter is not None] for ids in sequences], dtype=np.float32)

    return Encoder


@pytest.fixture
def client(start: Any, encoder: Any) -> openai.OpenAI:
    client: openai.OpenAI = start(encoder()).client()
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
    ("asked", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1], [True]]}, "input[1]"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
    ],
)
def test_what_cannot_be_answered_is_refused(client: openai.OpenAI, asked: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="base", **asked)
    assert caught.value.param == param


def test_a_base_that_is_no_encoder_says_so(start: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="gives no embeddings"):
        start().client().embeddings.create(model="base", input="a")


@pytest.mark.parametrize("id", [-1, 40, 1 << 63, 1 << 200])
def test_ids_that_the_model_does_not_know_are_refused(start: Any, scripted: Any, tmp_path: Path, id: int) -> None:
    real = padded.open_engine(write_bert(tmp_path), {}, form="embedder", dtype="float32")

    class Real(scripted):  # type: ignore[misc]
        def embed(self, sequences: Sequence[Sequence[int]], adapter: str | None) -> np.ndarray:
            return real.embed(sequences, None)

    with start(Real()).http() as client:
        refused = client.post("/v1/embeddings", json={"model": "base", "input": [[1, 2], [3, id]]})
        fine = client.post("/v1/embeddings", json={"model": "base", "input": [[1, 2], [3, 4]]})
    assert refused.status_code == 400 and fine.status_code == 200
    error = refused.json()["error"]
    assert f"token {id} is not among the" in error["message"] and error["param"] == "input"


def test_embeddings_take_a_place_like_answers(start: Any, encoder: Any, chat: Any, eventually: Any) -> None:
    gate = threading.Semaphore(0)
    server = start(encoder(gate=gate))
    turns = server.desk.find("base").turns
    turns._max_requests = 2
    with ThreadPoolExecutor(2) as pool:
        answered = pool.submit(server.http().post, "/v1/chat/completions", json=chat())
        eventually(lambda: server.engine.stepping)
        embedded = pool.submit(server.client().embeddings.create, model="base", input="abc")
        eventually(lambda: turns._num_requests == 2)
        with pytest.raises(openai.RateLimitError):
            server.client().embeddings.create(model="base", input="abc")
        gate.release(1000)
        assert answered.result().status_code == 200 and len(embedded.result().data) == 1
    assert turns._num_requests == 0 and server.engine.num_embedded == 1


def test_who_leaves_is_not_embedded(start: Any, encoder: Any, chat: Any, eventually: Any) -> None:
    gate = threading.Semaphore(0)
    server = start(encoder(gate=gate))
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(server.http().post, "/v1/chat/completions", json=chat())
        eventually(lambda: server.engine.stepping)
        with server.http() as client, pytest.raises(httpx2.ReadTimeout):
            body = {"model": "base", "input": "abc"}
            client.post("/v1/embeddings", json=body, timeout=httpx2.Timeout(20, read=0.3))
        eventually(lambda: server.desk.find("base").turns._num_requests == 1)
        gate.release(1000)
        assert answered.result().status_code == 200
    assert len(server.client().embeddings.create(model="base", input="abc").data) == 1
    assert server.engine.num_embedded == 1
