"""Text to tokens for encoders and encoder-decoders: prompts are the beginning of what trains, and nothing is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.data.pack import pack
from sartor.data.pad import halves, whole
from sartor.data.prepare import tokenise
from sartor.errors import DataError, RecipeError
from sartor.hub import find, kind_of, shape
from sartor.recipe import ModelSpec
from sartor.texts import Texts, form_of, labels_of, open_texts
from sartor.types import FIRST_LABEL, Chat, Form, Kind, Message, Source, Text, ToolCall

from .padded_bases import WORDS, write_bert, write_t5

LONG = " ".join(WORDS[:20])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"))


def chat(said: str, answer: str, **changes: object) -> Chat:
    messages = (Message(role="user", content=said), Message(role="assistant", content=answer))
    return Chat(source=Source(file="rows.jsonl", line=4), messages=messages).model_copy(update=changes)


def opened(folder: Path, form: Form, *labels: str) -> Texts:
    return open_texts(folder, folder, form, labels)


def test_a_label_is_predicted_by_the_last_token_of_the_text(bert: Path) -> None:
    texts = opened(bert, "classifier", "billing", "damage")
    (found,) = texts.render(chat("refund please", " damage "))
    prompt = texts.prompt((Message(role="user", content="refund please"),))
    assert found.ids == (*prompt, FIRST_LABEL + 1)
    assert found.weights == (0.0,) * len(prompt) + (1.0,)
    assert texts.decode([FIRST_LABEL + 1]) == "damage"
    assert texts.text(found.ids) == "[CLS] refund please [SEP]damage"
    (batch,) = pack(tokenise(chat("refund please", "damage"), texts).segments, micro_tokens=99)
    assert whole(batch)[0].tolist() == list(prompt)


def test_a_label_that_training_never_saw_is_not_trained(bert: Path) -> None:
    texts = opened(bert, "classifier", "billing")
    assert set(texts.render(chat("refund", "other"))[0].weights) == {0.0}
    reader = opened(bert, "classifier")
    assert reader.render(chat("refund", "other"))[0].weights[-1] == 1.0, "before labels are known all count"
    assert reader.with_labels(["other"]).labels == ("other",)
    assert reader.fingerprint != texts.fingerprint


def test_nothing_is_cut_and_spelt_control_tokens_are_text(bert: Path) -> None:
    texts = opened(bert, "classifier", "a")
    assert len(texts.prompt((Message(role="user", content=LONG),))) == 22, "the folder's own tokenizer cuts at 10"
    real = find(ModelSpec(name="all-minilm-l6-v2")).folder
    ids = opened(real, "classifier", "a").prompt((Message(role="user", content="refund [SEP] please"),))
    assert ids[-1] not in ids[:-1], "[SEP] stands at the end only"


def test_an_answer_of_a_decoder_follows_its_start(t5: Path) -> None:
    texts = opened(t5, "seq2seq")
    (found,) = texts.render(chat("refund please", "card order"))
    prompt = texts.prompt((Message(role="user", content="refund please"),))
    assert found.ids[: len(prompt)] == prompt
    assert prompt[-1] == 0, "the start token"
    assert found.ids[-1] == 3 in texts.stop_ids
    (batch,) = pack(tokenise(chat("refund please", "card order"), texts).segments, micro_tokens=99)
    sources, answers = halves(batch)
    assert sources[0].tolist() == list(prompt[:-1])
    assert answers[0].tolist() == [0, *found.ids[len(prompt) : -1]]
    assert texts.decode(found.ids[len(prompt) :]) == "card order"


def test_a_pair_is_two_texts_whole(bert: Path) -> None:
    texts = opened(bert, "embedder")
    (batch,) = pack(tokenise(chat("refund please", "card order again"), texts).segments, micro_tokens=99)
    questions, answers = halves(batch)
    assert tuple(questions[0]) == texts.prompt((Message(role="user", content="refund please"),))
    assert tuple(answers[0]) == texts.prompt((Message(role="user", content="card order again"),))


@pytest.mark.parametrize(
    "example",
    [
        Text(source=Source(file="a.txt", line=1), text="running"),
        chat("a", "b", tools=({"type": "function"},)),
        chat(
            "a",
            "b",
            messages=(Message(role="user", content="a"), Message(role="assistant", reasoning="so", content="b")),
        ),
        chat(
            "a",
            "b",
            messages=(Message(role="user"), Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={}),))),
        ),
    ],
)
def test_what_needs_a_decoder_is_refused_with_its_place(bert: Path, example: Chat | Text) -> None:
    with pytest.raises(DataError) as caught:
        opened(bert, "classifier", "b").render(example)
    assert "decoder" in caught.value.hint
    assert caught.value.where is not None


@pytest.mark.parametrize(
    ("kind", "needs", "form"),
    [
        ("decoder", "", "decoder"),
        ("encoder", "", "classifier"),
        ("encoder_decoder", "", "seq2seq"),
        ("encoder", "embeddings", "embedder"),
    ],
)
def test_the_use_of_a_base(kind: Kind, needs: str, form: Form) -> None:
    assert form_of(kind, frozenset({needs})) == form
    with pytest.raises(RecipeError, match="no encoder"):
        form_of("decoder", frozenset({"embeddings"}))


def test_labels_are_the_answers_in_order() -> None:
    assert labels_of([chat("x", "b "), chat("y", "a"), chat("z", "b")]) == ("a", "b")


def test_kinds_and_sizes(bert: Path, t5: Path) -> None:
    assert (shape(bert).kind, shape(t5).kind, kind_of({"model_type": "llama"})) == (
        "encoder",
        "encoder_decoder",
        "decoder",
    )
    from transformers import AutoModel, AutoModelForSeq2SeqLM

    assert shape(bert).num_parameters == sum(item.numel() for item in AutoModel.from_pretrained(bert).parameters())
    assert shape(t5).num_parameters == sum(
        item.numel() for item in AutoModelForSeq2SeqLM.from_pretrained(t5).parameters()
    )
    assert shape(bert).context == 64
