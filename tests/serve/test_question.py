"""What is asked of the engine is what training began with: the same row, as data and as a request, has the same ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sartor.chat import Renderer, open_renderer
from sartor.formats import chat
from sartor.generate import padded
from sartor.serve.desk import Served
from sartor.serve.errors import ApiError
from sartor.serve.question import ask
from sartor.serve.turns import Turns
from sartor.serve.wire import parse
from sartor.texts import open_texts
from sartor.types import Chat, Json, Source

from ..padded_bases import write_t5  # noqa: TID252 - the tests are no package to import by name

PLAIN: Json = {
    "messages": [
        {"role": "system", "content": "You answer in one word."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Capital of "}, {"type": "text", "text": "Peru? <|im_end|>"}],
        },
        {"role": "assistant", "content": "Lima"},
        {"role": "user", "content": "Größe 🙂?"},
        {"role": "assistant", "content": "Big"},
    ]
}
WITH_TOOLS: Json = {**chat.SAMPLE, "parallel_tool_calls": True}


def asked(renderer: Renderer, engine: Any, row: Json) -> tuple[int, ...]:
    """The prompt that the server asks for all messages of a row but the last."""
    messages = [{key: value for key, value in m.items() if key != "weight"} for m in row["messages"][:-1]]
    body = json.dumps({**row, "model": "m", "messages": messages})
    return ask(parse(body.encode()), Served("m", Turns(engine), renderer)).prompt


def trained(renderer: Renderer, row: Json) -> tuple[int, ...]:
    """The ids that train the last answer of a row."""
    example = chat.parse(row, Source(file="x.jsonl", line=1)).example
    assert isinstance(example, Chat)
    return renderer.render(example)[-1].ids


def test_training_ids_are_serving_ids(smollm2_folder: Path, scripted: Any) -> None:
    renderer = open_renderer(smollm2_folder)
    prompt, whole = asked(renderer, scripted(), PLAIN), trained(renderer, PLAIN)
    assert whole[: len(prompt)] == prompt
    assert renderer.decode(whole[len(prompt) :]).strip() == "Big"


def test_training_ids_are_serving_ids_with_tools(qwen3_tokenizer: Any, scripted: Any) -> None:
    renderer = Renderer(qwen3_tokenizer)
    prompt, whole = asked(renderer, scripted(), WITH_TOOLS), trained(renderer, WITH_TOOLS)
    assert whole[: len(prompt)] == prompt
    assert "No, it stays sunny." in renderer.decode(whole[len(prompt) :])


def test_tools_that_the_template_would_leave_out_are_refused(smollm2_folder: Path, scripted: Any) -> None:
    with pytest.raises(ApiError) as refused:
        asked(open_renderer(smollm2_folder), scripted(), WITH_TOOLS)
    assert refused.value.status == 400 and "leaves out" in refused.value.body["error"]["message"]


def test_an_answer_of_an_encoder_decoder_is_not_shortened_by_its_text(tmp_path: Path) -> None:
    folder = write_t5(tmp_path)
    engine = padded.open_engine(folder, {}, form="seq2seq", dtype="float32")
    turns = Turns(engine)
    text = "late " * (engine.context - 10)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 20})
    question = ask(parse(body.encode()), Served("m", turns, open_texts(folder, folder, "seq2seq")))
    endless = replace(question.sampling, stop_ids=frozenset({999}))
    assert len(list(engine.stream([question.prompt], endless, None))) == 20
    turns.close()
