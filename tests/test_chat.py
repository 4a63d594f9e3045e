"""Chat rendering: the ids are the template's, and the mask is the answer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, pre_tokenizers, processors

from sartor.chat import Renderer, open_renderer, preview
from sartor.errors import DataError, ModelError, RecipeError
from sartor.types import Message, Text

from .conversations import (
    CALL,
    SOURCE,
    TINY,
    WEATHER,
    assert_prompts_are_prefixes,
    assistant,
    chat,
    num_controls,
    spans,
    system,
    tiny,
    tool,
    trained,
    user,
    whole,
)

BENIGN = {
    "one turn": (user("What is 2 + 2?"), assistant("4")),
    "system": (system("Be terse."), user("Hi"), assistant("Hello.")),
    "turns": (user("One"), assistant("1"), user("Two"), assistant("2"), user("Three"), assistant("3")),
    "unicode": (user("Grüße, 你好 👩‍👩‍👧 e\u0301 \u200b\xa0x"), assistant("שלום 🌍\u2028ok")),
    "code": (user("    def f(x):\n\treturn x<1 and x>0 | 2\n```"), assistant("```\nif a <b> c:\r\n        pass\n")),
    "leading newlines": (system("\n\nx "), user("\n\n\n  indented\n\n"), assistant("yes  ")),
    "edges": (user("> quoted <"), assistant("<"), user("|>"), assistant("> <|")),
    "empty": (user(""), assistant("")),
}


@pytest.fixture(scope="module")
def smollm2(smollm2_tokenizer: Any) -> Renderer:
    return Renderer(smollm2_tokenizer)


@pytest.fixture(scope="module")
def qwen3(qwen3_tokenizer: Any) -> Renderer:
    return Renderer(qwen3_tokenizer)


@pytest.fixture(scope="module")
def qwen3_not_thinking(qwen3_tokenizer: Any) -> Renderer:
    return Renderer(qwen3_tokenizer, template_kwargs=(("enable_thinking", False),))


@pytest.fixture(params=["smollm2", "qwen3", "qwen3_not_thinking"])
def renderer(request: pytest.FixtureRequest) -> Renderer:
    return request.getfixturevalue(request.param)


# ── the ids are those of the model's own template ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", BENIGN)
def test_ids_equal_apply_chat_template_on_smollm2(name: str, smollm2: Renderer, smollm2_tokenizer: Any) -> None:
    example = chat(*BENIGN[name])
    (rendered,) = smollm2.render(example)
    assert list(rendered.ids) == whole(smollm2_tokenizer, example)
    asked = chat(*example.prompt)
    assert list(smollm2.prompt(asked.messages)) == whole(smollm2_tokenizer, asked, generate=True)
    assert (rendered.exact, rendered.stop_trained) == (True, True)


@pytest.mark.parametrize("name", BENIGN)
def test_ids_equal_apply_chat_template_on_qwen3(name: str, qwen3: Renderer, qwen3_tokenizer: Any) -> None:
    example = chat(*BENIGN[name])
    rendered = qwen3.render(example)[-1]
    assert list(rendered.ids) == whole(qwen3_tokenizer, example)
    asked = chat(*example.prompt)
    assert list(qwen3.prompt(asked.messages)) == whole(qwen3_tokenizer, asked, generate=True)


TOOL_FLOW = (
    system("Use tools."),
    user("Weather in Zürich?"),
    assistant(tool_calls=(CALL,)),
    tool('{"sky": "grey", "°C": 7}'),
    tool("done"),
    assistant("Grey, 7 °C."),
)


def test_an_answer_is_cut_from_its_prompt(smollm2: Renderer, smollm2_tokenizer: Any) -> None:
    """A tokenizer joins the newline before an answer with white space in it; a model that is served cannot."""
    example = chat(user("One"), assistant("    x"), user("Two"), assistant("\n\ny"))
    (rendered,) = smollm2.render(example)
    assert list(rendered.ids) != whole(smollm2_tokenizer, example)
    assert smollm2.text(rendered.ids) == smollm2_tokenizer.decode(whole(smollm2_tokenizer, example))
    assert_prompts_are_prefixes(example, smollm2)


def test_ids_equal_apply_chat_template_with_tools_on_qwen3(qwen3: Renderer, qwen3_tokenizer: Any) -> None:
    example = chat(*TOOL_FLOW, tools=[WEATHER, WEATHER])
    assert list(qwen3.render(example)[-1].ids) == whole(qwen3_tokenizer, example)
    asked = chat(*example.prompt, tools=example.tools)
    assert list(qwen3.prompt(asked.messages, asked.tools)) == whole(qwen3_tokenizer, asked, generate=True)


def test_ids_equal_apply_chat_template_with_reasoning_on_qwen3(qwen3: Renderer, qwen3_tokenizer: Any) -> None:
    example = chat(user("a"), assistant("b", reasoning="hm"), user("c"), assistant("d", reasoning="\nso\n\nthen"))
    assert list(qwen3.render(example)[-1].ids) == whole(qwen3_tokenizer, example)


def test_template_arguments_reach_the_template(qwen3_not_thinking: Renderer, qwen3_tokenizer: Any) -> None:
    asked = chat(user("a"))
    expected = whole(qwen3_tokenizer, asked, generate=True, enable_thinking=False)
    assert list(qwen3_not_thinking.prompt(asked.messages)) == expected
    assert expected != whole(qwen3_tokenizer, asked, generate=True)


def test_white_space_goes_where_the_token_says(qwen3_tokenizer: Any) -> None:
    """Phi-3's tokens eat the white space around them. The answer's own leading white space stays: it is generated."""
    eats = {"special": True, "lstrip": True, "rstrip": True}
    template = TINY.replace("{{ m.role }}\n", "{{ m.role }}<mid>\n").replace("assistant\n", "assistant<mid>\n")
    tokenizer = tiny(template, ["<s>", AddedToken("<mid>", **eats), AddedToken("<end>", **eats)])
    renderer = Renderer(tokenizer)
    asked = chat(system("  x \n"), user("y \u2003\n"), assistant("z "), user("  y"))
    assert list(renderer.prompt(asked.messages)) == whole(tokenizer, asked, generate=True)
    assert renderer.text(renderer.prompt(asked.messages)) == (
        "<s>system<mid>x<end><s>user<mid>y<end><s>assistant<mid>z<end><s>user<mid>y<end><s>assistant<mid>"
    )
    example = chat(user("x"), assistant("\n z"), user("y"), assistant("z"))
    assert trained(example, renderer) == [["\n z<end>", "z<end>"]]
    assert_prompts_are_prefixes(example, renderer)


def test_added_tokens_that_are_no_control_tokens_keep_their_ids() -> None:
    tokenizer = tiny(TINY)
    rare = tokenizer.convert_tokens_to_ids("<rare>")
    example = chat(user("a <rare> b"), assistant("<rare>"))
    (rendered,) = Renderer(tokenizer).render(example)
    assert list(rendered.ids) == whole(tokenizer, example)
    assert rendered.ids.count(rare) == 2


# ── the trained text ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_smollm2_trains_each_answer_with_its_stop_token_in_one_sequence(smollm2: Renderer) -> None:
    example = chat(user("One"), assistant("1"), user("Two"), assistant("\n\n2 "), user("Three"), assistant("3\n"))
    assert trained(example, smollm2) == [["1<|im_end|>", "\n\n2 <|im_end|>", "3\n<|im_end|>"]]
    assert_prompts_are_prefixes(example, smollm2)


def test_qwen3_trains_the_empty_thought_that_it_must_produce(qwen3: Renderer) -> None:
    example = chat(user("One"), assistant("1"))
    assert trained(example, qwen3) == [["<think>\n\n</think>\n\n1<|im_end|>"]]


def test_qwen3_without_thinking_has_the_empty_thought_in_its_prompt(qwen3_not_thinking: Renderer) -> None:
    example = chat(user("One"), assistant("1"))
    assert trained(example, qwen3_not_thinking) == [["1<|im_end|>"]]
    assert qwen3_not_thinking.text(qwen3_not_thinking.prompt(example.prompt)).endswith("<think>\n\n</think>\n\n")


def test_qwen3_gives_each_turn_the_context_in_which_it_is_generated(qwen3: Renderer) -> None:
    example = chat(user("One"), assistant("1"), user("Two"), assistant("2"))
    first, last = qwen3.render(example)
    assert spans(first, qwen3) == ["<think>\n\n</think>\n\n1<|im_end|>"]
    assert spans(last, qwen3) == ["<think>\n\n</think>\n\n2<|im_end|>"]
    assert "assistant\n1<|im_end|>" in qwen3.text(last.ids)
    assert_prompts_are_prefixes(example, qwen3)


def test_qwen3_without_thinking_rewrites_history_too(qwen3_not_thinking: Renderer) -> None:
    example = chat(user("One"), assistant("1"), user("Two"), assistant("\n2"))
    assert trained(example, qwen3_not_thinking) == [["1<|im_end|>"], ["2<|im_end|>"]]
    assert_prompts_are_prefixes(example, qwen3_not_thinking)


def test_qwen3_trains_reasoning(qwen3: Renderer) -> None:
    example = chat(user("One"), assistant("1", reasoning="easy"), user("Two"), assistant("2", reasoning="hard"))
    first, last = trained(example, qwen3)
    assert first == ["<think>\neasy\n</think>\n\n1<|im_end|>"]
    assert last == ["<think>\nhard\n</think>\n\n2<|im_end|>"]
    assert "easy" not in qwen3.text(qwen3.render(example)[-1].ids)


def test_thoughts_written_into_the_content_are_thoughts(qwen3: Renderer, qwen3_tokenizer: Any) -> None:
    written = chat(user("One"), assistant("<think>\neasy\n</think>\n\n1"))
    given = chat(user("One"), assistant("1", reasoning="easy"))
    assert qwen3.render(written) == qwen3.render(given)
    assert list(qwen3.render(written)[0].ids) == whole(qwen3_tokenizer, written)


CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


def test_qwen3_tool_calls_without_reasoning_are_two_sequences(qwen3: Renderer) -> None:
    example = chat(*TOOL_FLOW, tools=[WEATHER])
    assert trained(example, qwen3) == [
        [f"<think>\n\n</think>\n\n{CALL_TEXT}<|im_end|>"],
        ["<think>\n\n</think>\n\nGrey, 7 °C.<|im_end|>"],
    ]
    assert_prompts_are_prefixes(example, qwen3)


def test_qwen3_tool_calls_with_reasoning_share_a_sequence(qwen3: Renderer) -> None:
    call, answer = assistant(reasoning="look", tool_calls=(CALL,)), assistant("Grey.", reasoning="tell")
    example = chat(user("Weather?"), call, tool("grey"), answer, tools=[WEATHER])
    assert trained(example, qwen3) == [
        [f"<think>\nlook\n</think>\n\n{CALL_TEXT}<|im_end|>", "<think>\ntell\n</think>\n\nGrey.<|im_end|>"]
    ]
    assert_prompts_are_prefixes(example, qwen3)


def test_turns_without_weight_are_context(renderer: Renderer) -> None:
    example = chat(user("One"), assistant("1", weight=0.0), user("Two"), assistant("2"))
    (rendered,) = renderer.render(example)
    (span,) = spans(rendered, renderer)
    assert span.endswith("2<|im_end|>")
    assert "1<|im_end|>" in renderer.text(rendered.ids)


def test_a_sequence_ends_with_its_last_trained_turn(renderer: Renderer) -> None:
    example = chat(user("One"), assistant("1"), user("Two"), assistant("2", weight=0.0))
    (rendered,) = renderer.render(example)
    assert spans(rendered, renderer)[0].endswith("1<|im_end|>")
    assert "Two" not in renderer.text(rendered.ids)


def test_an_example_without_weight_trains_nothing(renderer: Renderer) -> None:
    assert renderer.render(chat(user("One"), assistant("1", weight=0.0))) == ()


def test_the_weight_of_a_turn_is_the_weight_of_its_tokens(smollm2: Renderer) -> None:
    (rendered,) = smollm2.render(chat(user("One"), assistant("1", weight=0.5), user("Two"), assistant("2")))
    assert set(rendered.weights) == {0.0, 0.5, 1.0}


def test_a_first_message_of_the_assistant_needs_weight_0(smollm2: Renderer) -> None:
    rest = (user("Hi"), assistant("Yes?"))
    with pytest.raises(DataError, match="starts with the assistant") as caught:
        smollm2.render(chat(assistant("Welcome!"), *rest))
    assert str(caught.value.where) == "rows.jsonl:7"
    example = chat(assistant("Welcome!", weight=0.0), *rest)
    assert trained(example, smollm2) == [["Yes?<|im_end|>"]]
    assert_prompts_are_prefixes(example, smollm2)


def test_a_first_message_of_the_assistant_is_not_cut(smollm2_tokenizer: Any) -> None:
    """Nothing prompts it, so what a prompt without messages looks like says nothing about it."""
    tokenizer = copy.copy(smollm2_tokenizer)
    tokenizer.chat_template = smollm2_tokenizer.chat_template.replace("system\nYou are", "assistance\nYou are")
    example = chat(assistant("Welcome!", weight=0.0), user("Hi"), assistant("Yes?"))
    (rendered,) = Renderer(tokenizer).render(example)
    assert list(rendered.ids) == whole(tokenizer, example)


def test_developers_are_systems_unless_the_template_knows_them(smollm2: Renderer, qwen3: Renderer) -> None:
    for renderer in (smollm2, qwen3):
        as_developer = (Message(role="developer", content="Be terse."), user("Hi"))
        assert renderer.prompt(as_developer) == renderer.prompt((system("Be terse."), user("Hi")))
    knows = Renderer(tiny("{# developer #}" + TINY))
    assert "developer\nBe terse." in knows.text(knows.prompt(as_developer))


# ── templates that differ from what history shows, refuse, or leave out ───────────────────────────────────────────────

THINKS = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n<think>\n{% endif %}"
)


@pytest.mark.parametrize("answer", ["1", "<b>1</b>", "<think>hm</think>1", "", "<"])
def test_a_prompt_that_history_does_not_show_is_inexact(answer: str) -> None:
    renderer = Renderer(tiny(THINKS))
    (rendered,) = renderer.render(chat(user("One"), assistant(answer), user("Two"), assistant(answer)))
    assert spans(rendered, renderer) == [f"{answer}<end>"] * 2
    assert not rendered.exact


def test_an_answer_that_continues_its_prompt_is_exact() -> None:
    renderer = Renderer(tiny(THINKS))
    example = chat(user("One"), assistant("<think>\nhm</think>1"))
    (rendered,) = renderer.render(example)
    assert (spans(rendered, renderer), rendered.exact) == (["hm</think>1<end>"], True)
    assert_prompts_are_prefixes(example, renderer)


def test_thoughts_where_the_prompt_promises_none_are_inexact(qwen3_not_thinking: Renderer) -> None:
    (rendered,) = qwen3_not_thinking.render(chat(user("One"), assistant("1", reasoning="hm")))
    assert spans(rendered, qwen3_not_thinking) == ["hm\n</think>\n\n1<|im_end|>"]
    assert not rendered.exact


def test_an_inexact_start_does_not_cut_a_word_of_the_answer() -> None:
    renderer = Renderer(tiny(TINY.replace("<s>assistant\n{% endif", "<s>assistant\nAnswer: {% endif")))
    (rendered,) = renderer.render(chat(user("One"), assistant("An ant")))
    assert (spans(rendered, renderer), rendered.exact) == (["An ant<end>"], False)


def test_a_template_that_rewrites_what_stands_before_is_refused() -> None:
    renderer = Renderer(tiny("{{ messages | length }} messages\n" + TINY))
    with pytest.raises(DataError, match="rewrites the conversation before message 2") as caught:
        renderer.render(chat(user("One"), assistant("1")))
    assert caught.value.hint


def test_turns_that_look_alike_are_not_trained_twice_in_one_place() -> None:
    """A template without memory shows the last message only."""
    renderer = Renderer(tiny("<s>{% if not add_generation_prompt %}{{ messages[-1].content }}<end>{% endif %}"))
    sequences = renderer.render(chat(user("One"), assistant("1"), user("Two"), assistant("1")))
    assert [preview(rendered, renderer) for rendered in sequences] == [[("<s>", False), ("1<end>", True)]] * 2
    assert all(max(rendered.weights) == 1.0 for rendered in sequences)


def test_without_a_closing_token_the_stop_is_untrained() -> None:
    template = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    renderer = Renderer(tiny(template + "{% if add_generation_prompt %}<s>assistant\n{% endif %}"))
    example = chat(user("One"), assistant("1"), user("Two"), assistant("2"))
    (rendered,) = renderer.render(example)
    assert spans(rendered, renderer) == ["1\n", "2\n"]
    assert not rendered.stop_trained
    assert_prompts_are_prefixes(example, renderer)


def test_the_words_of_the_template_reach_the_user() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system, please!') }}{% endif %}" + TINY
    renderer = Renderer(tiny(template))
    with pytest.raises(DataError, match="No system, please!") as caught:
        renderer.render(chat(system("s"), user("One"), assistant("1")))
    assert str(caught.value.where) == "rows.jsonl:7"
    with pytest.raises(DataError, match="No system, please!"):
        renderer.prompt((system("s"), user("One")))


def test_a_template_that_fails_on_strange_tools_is_a_data_error() -> None:
    renderer = Renderer(tiny("{% for tool in tools or [] %}{{ tool.name + 'x' }}{% endfor %}" + TINY))
    with pytest.raises(DataError, match="refuses this conversation"):
        renderer.prompt((user("One"),), [{"name": 3}])


def test_what_the_template_leaves_out_is_refused(smollm2: Renderer, qwen3: Renderer) -> None:
    assert smollm2.ignored == {"tools", "tool calls", "reasoning"}
    assert qwen3.ignored == frozenset()
    for messages, tools in (
        ((user("One"), assistant("1")), [WEATHER]),
        ((user("One"), assistant(tool_calls=(CALL,))), []),
        ((user("One"), assistant("1", reasoning="hm")), []),
    ):
        with pytest.raises(DataError, match="leaves out"):
            smollm2.render(chat(*messages, tools=tools))
        assert qwen3.render(chat(*messages, tools=tools))
    deaf = Renderer(tiny(TINY.replace("messages %}", "messages if m.role != 'system' %}")))
    with pytest.raises(DataError, match="leaves out system messages"):
        deaf.prompt((Message(role="developer", content="x"), user("One")))


def test_no_messages_no_prompt(renderer: Renderer) -> None:
    with pytest.raises(DataError, match="no messages"):
        renderer.prompt(())


def test_unknown_template_arguments_are_refused(qwen3_tokenizer: Any) -> None:
    for name in ("enable_thinkin", "messages", "add_generation_prompt"):
        with pytest.raises(RecipeError, match=name):
            Renderer(qwen3_tokenizer, template_kwargs=((name, False),))


def test_a_tokenizer_that_marks_the_start_of_text_is_refused() -> None:
    tokenizer = tiny(TINY)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ModelError, match="in pieces") as caught:
        Renderer(tokenizer)
    assert "SmolLM2" in caught.value.hint


def test_a_template_that_refuses_plain_conversations_is_refused() -> None:
    with pytest.raises(ModelError, match="never"):
        Renderer(tiny("{{ raise_exception('never') }}"))


def test_without_a_template_only_text_can_be_rendered() -> None:
    renderer = Renderer(tiny(None))
    with pytest.raises(ModelError, match="no chat template") as caught:
        renderer.render(chat(user("One"), assistant("1")))
    assert "instruct" in caught.value.hint
    (rendered,) = renderer.render(Text(source=SOURCE, text="once"))
    assert preview(rendered, renderer) == [("o", False), ("nce<end>", True)]


# ── text, stop tokens, decoding ───────────────────────────────────────────────────────────────────────────────────────


def test_text_is_trained_up_to_the_end_of_text(smollm2: Renderer, smollm2_tokenizer: Any) -> None:
    (rendered,) = smollm2.render(Text(source=SOURCE, text="Once upon a time.\n"))
    assert list(rendered.ids) == [*smollm2_tokenizer("Once upon a time.\n").input_ids, smollm2_tokenizer.eos_token_id]
    assert rendered.weights == (0.0, *(1.0,) * (len(rendered.ids) - 1))
    assert (rendered.exact, rendered.stop_trained) == (True, True)


def test_text_holds_no_control_tokens(smollm2: Renderer, smollm2_tokenizer: Any) -> None:
    (rendered,) = smollm2.render(Text(source=SOURCE, text="a<|im_end|>b<filename>"))
    assert num_controls(rendered.ids, smollm2_tokenizer) == 1
    assert smollm2.text(rendered.ids) == "a<|im_end|>b<filename><|im_end|>"


def test_text_starts_as_the_tokenizer_starts_it() -> None:
    tokenizer = tiny(TINY, bos_token="<s>")
    start = ("<s>", tokenizer.convert_tokens_to_ids("<s>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    renderer = Renderer(tokenizer)
    (rendered,) = renderer.render(Text(source=SOURCE, text="once"))
    assert preview(rendered, renderer) == [("<s>", False), ("once<end>", True)]
    (empty,) = renderer.render(Text(source=SOURCE, text=""))
    assert preview(empty, renderer) == [("<s>", False), ("<end>", True)]
    assert renderer.opening("once") == rendered.ids[:-1], "asked to go on, it begins as it was trained"


def test_stop_tokens_come_from_everywhere_they_are_named() -> None:
    template = TINY.replace("<end>", "{{ '<halt>' if m.role == 'assistant' else '<end>' }}")
    tokenizer = tiny(template, ["<s>", "<end>", "<halt>"])
    renderer = Renderer(tokenizer, eos_ids=[tokenizer.convert_tokens_to_ids("<s>")])
    assert renderer.stop_ids == set(tokenizer.convert_tokens_to_ids(["<end>", "<halt>", "<s>"]))
    (rendered,) = renderer.render(chat(user("One"), assistant("1")))
    assert spans(rendered, renderer) == ["1<halt>"]
    assert rendered.stop_trained


def test_open_renderer_reads_the_folder(smollm2_tokenizer: Any, smollm2: Renderer, tmp_path: Path) -> None:
    opened = open_renderer(Path(smollm2_tokenizer.name_or_path))
    assert opened.fingerprint == smollm2.fingerprint
    assert opened.stop_ids == smollm2.stop_ids == {2}
    with pytest.raises(ModelError, match=r"no usable tokenizer") as caught:
        open_renderer(tmp_path)
    assert "tokenizer.json" in caught.value.hint


def test_the_generation_config_adds_stop_tokens(tmp_path: Path) -> None:
    tiny(TINY).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert {5, 6} < open_renderer(tmp_path).stop_ids
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert 7 in open_renderer(tmp_path).stop_ids


def test_the_fingerprint_tells_apart_all_that_decides_tokens(
    smollm2: Renderer, qwen3: Renderer, qwen3_not_thinking: Renderer
) -> None:
    prints = [smollm2.fingerprint, qwen3.fingerprint, qwen3_not_thinking.fingerprint]
    prints += [Renderer(tiny(TINY)).fingerprint, Renderer(tiny(TINY + " ")).fingerprint]
    assert len(set(prints)) == len(prints)
    assert Renderer(tiny(TINY)).fingerprint == Renderer(tiny(TINY)).fingerprint


def test_decode_gives_the_answer_back(renderer: Renderer) -> None:
    for answer in ("Grüße 👩‍👩‍👧\n\n", "  <|im_end|> quoted", "", "x"):
        example = chat(user("One"), assistant(answer))
        (rendered,) = renderer.render(example)
        size = len(renderer.prompt(example.prompt))
        assert renderer.decode(rendered.ids[size:-1]).removeprefix("<think>\n\n</think>\n\n") == answer


def test_decode_keeps_what_an_assistant_writes(qwen3: Renderer) -> None:
    """So that a decoded tool call is a tool call, and goes into the next prompt with the very same tokens."""
    example = chat(user("Weather?"), assistant(tool_calls=(CALL,)), tools=[WEATHER])
    (rendered,) = qwen3.render(example)
    size = len(qwen3.prompt(example.prompt, example.tools))
    answer = qwen3.decode(rendered.ids[size:-1])
    assert answer == f"<think>\n\n</think>\n\n{CALL_TEXT}"
    assert qwen3.render(chat(user("Weather?"), assistant(answer), tools=[WEATHER])) == (rendered,)


def test_preview_covers_the_whole_sequence(smollm2: Renderer) -> None:
    (rendered,) = smollm2.render(chat(system("S"), user("One 👍"), assistant("1 👍")))
    assert preview(rendered, smollm2) == [
        ("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nOne 👍<|im_end|>\n<|im_start|>assistant\n", False),
        ("1 👍<|im_end|>", True),
        ("\n", False),
    ]
