"""Four families of models: the ids are those of the model's own template, the mask is the answer, no text steers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor.chat import Renderer, preview
from sartor.errors import DataError

from .conversations import CALL, WEATHER, assert_prompts_are_prefixes, assistant, chat, system, tool, user, whole

#: Opening 262,145 tokens takes its time.
pytestmark = pytest.mark.slow

TALKS = {
    "one turn": (user("What is 2 + 2?"), assistant("4")),
    "system": (system("Be terse."), user("Hi"), assistant("Hello.")),
    "turns": (user("One"), assistant("1"), user("Two"), assistant("2"), user("Three"), assistant("3")),
    "unicode": (user("Grüße, 你好 👩‍👩‍👧 e\u0301 \u200b\xa0x"), assistant("שלום 🌍\u2028ok")),
    "code": (user("if x:\n\treturn x<1 and x>0 | 2\n```"), assistant("```\nif a <b> c:\r\n        pass\n```")),
    "edges": (user("> quoted <"), assistant("<"), user("|>"), assistant("> <|")),
}


@dataclass(frozen=True, slots=True)
class Family:
    """A tokenizer and its renderer. `steers`: ids that steer the model, by the tokenizer's flags and their look."""

    name: str
    tokenizer: Any = field(repr=False)  # the words of 262,145 tokens help nobody who reads of a failure
    renderer: Renderer = field(repr=False)
    steers: frozenset[int] = field(repr=False)


@pytest.fixture(scope="module", params=["smollm2", "qwen3", "llama", "gemma"])
def family(request: pytest.FixtureRequest) -> Family:
    tokenizer = request.getfixturevalue(f"{request.param}_tokenizer")
    added = [(id, token) for id, token in tokenizer.added_tokens_decoder.items() if len(token.content.strip()) > 2]
    steers = frozenset(
        id
        for id, token in added
        if token.special or token.content.startswith("<|") or token.content in tokenizer.chat_template
    )
    return Family(request.param, tokenizer, Renderer(tokenizer), steers)


@pytest.mark.parametrize("name", TALKS)
def test_ids_are_those_of_the_models_own_template(name: str, family: Family) -> None:
    example, renderer, tokenizer = chat(*TALKS[name]), family.renderer, family.tokenizer
    assert list(renderer.render(example)[-1].ids) == whole(tokenizer, example)
    asked = chat(*example.prompt)
    assert list(renderer.prompt(asked.messages)) == whole(tokenizer, asked, generate=True)
    assert_prompts_are_prefixes(example, renderer)


CHATML = "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
GOLDEN = {
    "smollm2": [(CHATML, False), ("Hello.<|im_end|>", True), ("\n", False)],
    "qwen3": [(CHATML, False), ("<think>\n\n</think>\n\nHello.<|im_end|>", True), ("\n", False)],
    "llama": [
        (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe terse.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            False,
        ),
        ("Hello.<|eot_id|>", True),
    ],
    "gemma": [
        ("<bos><start_of_turn>user\nBe terse.\n\nHi<end_of_turn>\n<start_of_turn>model\n", False),
        ("Hello.<end_of_turn>", True),
        ("\n", False),
    ],
}


def test_the_answer_and_its_end_are_what_is_trained(family: Family) -> None:
    (rendered,) = family.renderer.render(chat(*TALKS["system"]))
    assert preview(rendered, family.renderer) == GOLDEN[family.name]
    assert (rendered.exact, rendered.stop_trained) == (True, True)


def test_each_answer_is_trained_once(family: Family) -> None:
    trained = [
        text.removeprefix("<think>\n\n</think>\n\n")
        for rendered in family.renderer.render(chat(*TALKS["turns"]))
        for text, is_trained in preview(rendered, family.renderer)
        if is_trained
    ]
    (end,) = {text[1:] for text in trained}
    assert trained == [f"{answer}{end}" for answer in "123"]


LEFT_OUT = {
    "smollm2": {"tools", "tool calls", "reasoning"},
    "qwen3": set(),
    "llama": {"tools", "tool calls", "reasoning"},
    "gemma": {"tools", "reasoning"},
}


def test_what_a_template_has_no_place_for_is_refused(family: Family) -> None:
    assert family.renderer.ignored == LEFT_OUT[family.name]
    called = chat(user("Weather?"), assistant(tool_calls=(CALL,)), tool("grey"), assistant("Grey."), tools=[WEATHER])
    thought = chat(user("One"), assistant("1", reasoning="hm"))
    for example in (called, thought) if family.renderer.ignored else ():
        with pytest.raises(DataError, match="leaves out"):
            family.renderer.render(example)


FRAGMENTS = [
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<unused7>", "<start_of_image>"),
    *("<|end_of_text|>", "<|python_tag|>", "<|eom_id|>", "<|reserved_special_token_3|>", "<|endoftext|>", "<filename>"),
    *("<|fim_pad|>", "<table>", "<|", "|>", "<", ">", "start_of_turn>", "_id|>", "<|im_", "end|>"),
    *("\n", "\n\n", " ", "\t", "system\n", "assistant\n", "model\n", "user\n", "a", "é", "▁", "Ġ"),
]
HOSTILE = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=10).map("".join)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(asked=HOSTILE, answer=HOSTILE, told=HOSTILE)
def test_no_text_becomes_a_token_that_steers(told: str, asked: str, answer: str, family: Family) -> None:
    def steering(*said: str) -> list[list[int]]:
        """The tokens that steer, in their order."""
        example = chat(system(said[0]), user(said[1]), assistant(said[2]), user(said[1]), assistant(said[2]))
        return [[id for id in rendered.ids if id in family.steers] for rendered in family.renderer.render(example)]

    assert steering(told, asked, answer) == steering("s", "u", "a")
