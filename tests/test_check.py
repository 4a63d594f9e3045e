"""The check: each problem is provoked once, counted over all rows, and names its rows; nothing crashes on the way."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sartor import check as check_module
from sartor.chat import Renderer
from sartor.check import FEWEST_EXAMPLES, SAMPLES, SHOWN_PLACES, Check, Problem, check, refuse_unfit
from sartor.data.pack import Steps
from sartor.data.prepare import Prepared, prepare
from sartor.errors import ModelError, RecipeError
from sartor.hub import Shape
from sartor.recipe import Recipe

from .conversations import TINY, tiny
from .engines import renderer_of, row, write_rows

CONTEXT = 512
#: A template that never says where the assistant's turn ends.
OPEN = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
OPEN += "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
#: Enough rows that nothing is found to complain of: 500 give 395 training examples, 75 test items.
ENOUGH = 500


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(tiny(TINY))


@pytest.fixture
def judged(tmp_path: Path, renderer: Renderer) -> Callable[..., Check]:
    """The check of rows under a recipe; `data` are more keys of its section, `files` more files."""

    def judge(rows: list[Any], *, with_renderer: Renderer = renderer, files: Any = (), **data: Any) -> Check:
        return look(tmp_path, with_renderer, rows, files=files, **data)[1]

    return judge


def look(
    folder: Path, renderer: Renderer, rows: list[Any], *, metric: str = "exact", files: Any = (), **data: Any
) -> tuple[Prepared, Check]:
    for name, lines in {"train.jsonl": rows, **dict(files)}.items():
        write_rows(folder / name, lines)
    recipe = Recipe.model_validate({"model": "m", "data": {"train": "train.jsonl", **data}, "task": metric})
    found = prepare(recipe, folder, renderer, context=CONTEXT)
    return found, check(recipe, found, renderer, context=CONTEXT)


def rows(count: int = ENOUGH) -> list[Any]:
    return [row(f"question {number}", f"answer {number}") for number in range(count)]


def only(found: Check, code: str) -> Problem:
    """The problem of this code, which must be the only one."""
    assert [problem.code for problem in found.problems] == [code]
    return found.problems[0]


def test_good_rows_have_no_problems(judged: Callable[..., Check]) -> None:
    found = judged(rows())
    assert found.problems == ()
    assert found.ok
    assert found.format == "chat"


def test_counts_are_over_all_rows(tmp_path: Path, renderer: Renderer) -> None:
    prepared, found = look(tmp_path, renderer, [*rows(), "{", *rows(3)], max_bad_rows=0.1)
    counts = found.counts
    assert (counts.rows, counts.kept) == (504, 504 - sum(counts.dropped.values()))
    assert counts.dropped["syntax"] == 1
    assert counts.train + counts.dev + counts.test == counts.kept
    assert counts.tokens == sum(item.num_tokens for item in prepared.train)
    assert counts.supervised_tokens == sum(item.num_supervised for item in prepared.train)
    assert 0 < counts.supervised_tokens < counts.tokens
    lengths = sorted(item.length for item in prepared.everything)
    assert (counts.length_median, counts.length_max) == (lengths[len(lengths) // 2], lengths[-1])
    assert sum(length <= counts.length_99 for length in lengths) >= 0.99 * len(lengths)
    assert (counts.truncated, counts.nothing_trained, counts.stop_token_untrained) == (0, 0, 0)


def test_samples_show_what_is_trained(judged: Callable[..., Check]) -> None:
    found = judged(rows())
    assert len(found.samples) == SAMPLES
    for sample in found.samples:
        trained = "".join(piece for piece, is_trained in sample.pieces if is_trained)
        context = "".join(piece for piece, is_trained in sample.pieces if not is_trained)
        number = int(sample.row.partition(":")[2]) - 1
        assert trained == f"answer {number}<end>"
        assert context == f"<s>user\nquestion {number}<end>\n<s>assistant\n\n"


# ---- problems, one by one --------------------------------------------------------------------------------------------


def test_nothing_trained(tmp_path: Path, renderer: Renderer) -> None:
    """An assistant turn with weight 0 only: the first row, so that samples, packing and counting meet it too."""
    untrained = [row(f"context {number}", "only", weight=0) for number in range(7)]
    prepared, found = look(tmp_path, renderer, [*untrained, *rows()])
    problem = only(found, "nothing_trained")
    assert (problem.severity, problem.count, found.counts.nothing_trained) == ("error", 7, 7)
    assert len(problem.where) == SHOWN_PLACES
    assert set(problem.where) <= {f"train.jsonl:{line}" for line in range(1, 8)}
    assert not found.ok
    assert len(found.samples) == SAMPLES
    assert all(any(trained for _, trained in sample.pieces) for sample in found.samples)
    steps = Steps([item.segments for item in prepared.train], batch_size=8, micro_tokens=256, seed=1)
    assert all(next(steps) for _ in range(len(prepared.train) // 8)), "such a row takes no place in a batch"


def test_where_no_row_is_trained_there_is_no_sample(judged: Callable[..., Check]) -> None:
    found = judged([row(f"context {number}", "only", weight=0) for number in range(ENOUGH)])
    assert only(found, "nothing_trained").count == ENOUGH
    assert (found.samples, found.counts.tokens, found.counts.length_max) == ((), 0, 1)


def test_an_earlier_turn_that_is_trained_is_enough(judged: Callable[..., Check]) -> None:
    turns = row("one", "1")["messages"] + row("two", "2", weight=0)["messages"]
    assert judged([*rows(), {"messages": turns}]).ok


def test_stop_token_untrained(judged: Callable[..., Check]) -> None:
    found = judged(rows(), with_renderer=Renderer(tiny(OPEN)))
    problem = only(found, "stop_token_untrained")
    assert (problem.severity, problem.count, found.counts.stop_token_untrained) == ("error", ENOUGH, ENOUGH)
    assert not found.ok


def test_too_long_says_what_would_cover_99_percent(tmp_path: Path, renderer: Renderer) -> None:
    giants = [row(f"giant {number}", "far " * (100 + number)) for number in range(4)]
    prepared, found = look(tmp_path, renderer, [*rows(), *giants])
    assert found.ok, "all fit into the context"
    prepared, found = look(tmp_path, renderer, [*rows(), *giants], max_length=300)
    problem = only(found, "too_long")
    assert (problem.severity, problem.count) == ("error", 4)
    assert set(problem.where) == {f"train.jsonl:{line}" for line in range(501, 505)}
    assert "4 examples are longer than 300 tokens; nothing is ever cut" in problem.message
    covering = found.counts.length_99
    assert covering < 300, "one row in a hundred may be longer"
    assert f"{covering} tokens cover 99 %" in problem.hint
    longest = max(item.length for item in prepared.everything)
    assert f"the longest has {longest}" in problem.hint
    assert found.counts.length_max == longest


def test_99_percent_where_the_long_rows_are_more(judged: Callable[..., Check]) -> None:
    giants = [row(f"giant {number}", "far " * 100) for number in range(20)]
    found = judged([*rows(), *giants], max_length=300)
    assert found.counts.length_99 > 400
    assert only(found, "too_long").count == 20


def test_the_context_of_the_model_is_a_limit_too(judged: Callable[..., Check]) -> None:
    giant = row("giant", "far " * 130)
    assert f"longer than {CONTEXT} tokens" in only(judged([*rows(), giant]), "too_long").message
    assert f"longer than {CONTEXT} tokens" in only(judged([*rows(), giant], max_length=9999), "too_long").message
    dropped = judged([*rows(), giant], too_long="drop")
    assert dropped.ok
    assert dropped.counts.dropped == {"over_max_length": 1}


def test_leak(judged: Callable[..., Check]) -> None:
    test = [row(f"question {number}", "another answer") for number in range(20)]
    test += [row(f"new {number}", "answer") for number in range(60)]
    found = judged(rows(), files={"test.jsonl": test}, test="test.jsonl")
    problem = only(found, "leak")
    assert problem.severity == "error"
    assert 15 <= problem.count <= 20, "a few of the questions are in dev"
    assert len(problem.where) == SHOWN_PLACES
    for pair in problem.where:
        held_out, _, train = pair.partition(" = ")
        assert held_out.replace("test", "train") == train, "row n leaks row n here"
    assert not found.ok


def test_near_leak(judged: Callable[..., Check]) -> None:
    def asks(number: int, end: str) -> str:
        return " ".join(f"word{number}{letter}" for letter in "abcdefghijklmnop") + end

    train = [row(asks(number, ""), "answer") for number in range(60)]
    test = [row(asks(number, " please"), "answer") for number in range(3)] + [row(f"new {n}", "a") for n in range(60)]
    problem = only(judged(train, files={"test.jsonl": test}, test="test.jsonl"), "near_leak")
    assert (problem.severity, problem.where[0]) == ("warning", "test.jsonl:1 ≈ train.jsonl:1")
    assert "contamination" in problem.hint


def test_prompt_differs(qwen3_tokenizer: Any, judged: Callable[..., Check]) -> None:
    """Qwen3 told not to think, and a row that thinks."""
    qwen3 = Renderer(qwen3_tokenizer, template_kwargs=(("enable_thinking", False),))
    thinking = row("Why?", "So.", reasoning_content="hm")
    found = judged([*rows(), thinking], with_renderer=qwen3)
    problem = only(found, "prompt_differs")
    assert (problem.severity, problem.count, problem.where) == ("warning", 1, ("train.jsonl:501",))
    assert found.ok


def test_unreadable(judged: Callable[..., Check]) -> None:
    found = judged([*rows(), "{broken", {"messages": [{"role": "usr", "content": "a"}]}], max_bad_rows=0.05)
    problem = only(found, "unreadable")
    assert (problem.severity, problem.count) == ("warning", 2)
    assert problem.where == ("train.jsonl:501", "train.jsonl:502, field `messages[0].role`")
    assert "usr" in problem.hint
    assert found.ok


def test_what_the_template_refuses_counts_as_unreadable(smollm2_folder: Path, judged: Callable[..., Check]) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    found = judged([*rows(60), {**row("a", "b"), "tools": [tool]}], with_renderer=renderer_of(smollm2_folder))
    problem = next(problem for problem in found.problems if problem.code == "unreadable")
    assert problem.where == ("train.jsonl:61",)
    assert "leaves out tools" in problem.hint


def test_few_examples_and_few_test_items(judged: Callable[..., Check]) -> None:
    found = judged(rows(40))
    assert [(problem.code, problem.severity) for problem in found.problems] == [
        ("few_examples", "warning"),
        ("few_test_items", "warning"),
    ]
    assert [problem.count for problem in found.problems] == [found.counts.train, found.counts.test]
    assert "500 to 1,000 often suffice" in found.problems[0].hint
    assert found.ok, "a warning is no error"


def test_fifty_are_not_few(judged: Callable[..., Check]) -> None:
    test = [row(f"new {number}", "answer") for number in range(FEWEST_EXAMPLES)]
    dev = [row("dev", "answer")]

    def of(train: int, held_out: int) -> Check:
        files = {"test.jsonl": test[:held_out], "dev.jsonl": dev}
        return judged(rows(train), files=files, test="test.jsonl", dev="dev.jsonl")

    assert of(FEWEST_EXAMPLES, FEWEST_EXAMPLES).problems == ()
    assert only(of(FEWEST_EXAMPLES - 1, FEWEST_EXAMPLES), "few_examples").count == FEWEST_EXAMPLES - 1
    assert only(of(FEWEST_EXAMPLES, FEWEST_EXAMPLES - 1), "few_test_items").count == FEWEST_EXAMPLES - 1


def test_duplicates(judged: Callable[..., Check]) -> None:
    dev = [row("dev", "answer")]
    test = [row(f"new {number}", "answer") for number in range(60)]
    files = {"test.jsonl": test, "dev.jsonl": dev}
    repeated = [row("question 3", "answer 3"), row("question 3", "answer 3"), row("question 4", "another answer")]
    found = judged([*rows(60), *repeated], files=files, test="test.jsonl", dev="dev.jsonl")
    problem = only(found, "duplicates")
    assert (problem.severity, problem.count, found.counts.duplicates) == ("warning", 2, 2)
    assert problem.where == ("train.jsonl:61", "train.jsonl:62")


def test_no_target(tmp_path: Path, renderer: Renderer) -> None:
    texts = [{"text": f"Chapter {number}. It rains."} for number in range(ENOUGH)]
    _, found = look(tmp_path, renderer, texts)
    problem = only(found, "no_target")
    assert (problem.severity, problem.count) == ("error", found.counts.test)
    assert "the metric 'exact' needs questions and answers" in problem.message
    assert not found.ok
    _, weighed = look(tmp_path, renderer, texts, metric="perplexity")
    assert weighed.problems == ()
    assert weighed.counts.supervised_tokens > 0.9 * weighed.counts.tokens


def test_an_unknown_metric_is_named(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(RecipeError, match="unknown metric 'exat'") as caught:
        look(tmp_path, renderer, rows(), metric="exat")
    assert "did you mean 'exact'" in caught.value.hint


def labelled(folder: Path, renderer: Renderer, rows: list[Any], **files: Any) -> Check:
    """The check of rows for an encoder."""
    for name, lines in {"train": rows, **files}.items():
        write_rows(folder / f"{name}.jsonl", lines)
    data = {name: f"{name}.jsonl" for name in ("train", *files)}
    recipe = Recipe.model_validate({"model": "m", "data": data, "task": "choice"})
    found = prepare(recipe, folder, renderer, context=CONTEXT)
    return check(recipe, found, renderer, context=CONTEXT, form="classifier")


def test_an_encoder_needs_labels(tmp_path: Path, renderer: Renderer) -> None:
    good = [row(f"question {number}", "ab"[number % 2]) for number in range(ENOUGH)]
    found = labelled(tmp_path, renderer, good)
    assert (found.problems, found.served) == ((), "Sartor's engine")
    for bad in (rows(), [row(f"question {number}", "a") for number in range(ENOUGH)]):
        assert only(labelled(tmp_path, renderer, bad), "no_labels").severity == "error"


def test_a_label_that_only_held_out_items_have_is_named(tmp_path: Path, renderer: Renderer) -> None:
    good = [row(f"question {number}", "ab"[number % 2]) for number in range(ENOUGH)]
    test = [row(f"other {number}", "abc"[number % 3]) for number in range(60)]
    problem = only(labelled(tmp_path, renderer, good, test=test), "unseen_label")
    assert (problem.severity, problem.count, problem.where[0]) == ("warning", 20, "test.jsonl:3")


# ---- all together ----------------------------------------------------------------------------------------------------


def test_every_code_is_provoked_by_a_test_of_this_file() -> None:
    codes = set(re.findall(r'code="(\w+)"', inspect.getsource(check_module)))
    assert codes == {
        *("nothing_trained", "stop_token_untrained", "too_long", "leak", "near_leak", "prompt_differs", "unreadable"),
        *("few_examples", "few_test_items", "duplicates", "no_target"),
        *("no_labels", "unseen_label", "served_after_conversion"),
    }


def test_problems_add_up_and_errors_decide(judged: Callable[..., Check]) -> None:
    found = judged([*rows(40), row("a", "b", weight=0), row("giant", "far " * 200), "{"], max_bad_rows=0.1)
    codes = {problem.code: problem for problem in found.problems}
    assert set(codes) == {"nothing_trained", "too_long", "unreadable", "few_examples", "few_test_items"}
    assert not found.ok
    assert all(problem.message and problem.hint and problem.count for problem in found.problems)
    assert Check.model_validate_json(found.model_dump_json(by_alias=True)) == found


def served(folder: Path, renderer: Renderer, method: str, engine: str | None) -> Check:
    """The check of good rows for a method and the engine that is to serve it."""
    write_rows(folder / "train.jsonl", rows())
    asked = {"model": "m", "data": "train.jsonl", "task": "exact", "tune": {"adapter": method}}
    recipe = Recipe.model_validate({**asked, "serve": {"engine": engine} if engine else {}})
    return check(recipe, prepare(recipe, folder, renderer, context=CONTEXT), renderer, context=CONTEXT)


@pytest.mark.parametrize(
    ("method", "engine", "code"),
    [
        ("lora", None, ""),
        ("lora", "vllm", ""),
        ("lora", "llamacpp", ""),
        ("bottleneck", "sartor", ""),
        ("bottleneck", "vllm", "not_served"),
        ("dora", "vllm", "served_after_conversion"),
        ("loha", "vllm", "served_after_conversion"),
    ],
)
def test_how_the_result_will_be_served(
    tmp_path: Path, renderer: Renderer, method: str, engine: str | None, code: str
) -> None:
    found = served(tmp_path, renderer, method, engine)
    assert [problem.code for problem in found.problems] == ([code] if code else [])
    assert found.ok == (code != "not_served")
    assert "Sartor's engine" in found.served


def test_a_detour_is_named(tmp_path: Path, renderer: Renderer) -> None:
    assert (
        "sartor convert --to model" in only(served(tmp_path, renderer, "dora", "vllm"), "served_after_conversion").hint
    )
    assert "sartor methods" in only(served(tmp_path, renderer, "bottleneck", "vllm"), "not_served").hint


# ---- what the plan would refuse --------------------------------------------------------------------------------------

SHAPE = Shape(
    num_layers=2, hidden=32, inner=64, num_heads=4, num_kv_heads=4, head_dim=8, vocab=100, tied=True, context=512
)


def unfit(folder: Path, *, form: Any = "decoder", **sections: Any) -> None:
    recipe = Recipe.model_validate({"model": "m", "data": "d.jsonl", "task": "exact", **sections})
    shape = SHAPE if form == "decoder" else SHAPE.model_copy(update={"kind": "encoder"})
    refuse_unfit(recipe, folder, shape, form)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"prove": {"arms": ["tuned"]}}, "names no untuned arm"),
        ({"prove": {"arms": ["zeroshot", "tuned"]}}, "names 'zeroshot'"),
        ({"prove": {"arms": ["zero_shot", "nearest", "tuned"]}}, "'nearest' is not for a decoder"),
        ({"model": {"name": "m", "quantize": "nf4"}, "tune": {"adapter": "full"}}, "`model.quantize` is nf4"),
        ({"tune": {"adapter": {"name": "boft", "block": 7}}}, "`tune.adapter.block` is 7"),
        ({"tune": {"adapter": {"name": "lora", "targets": ["foo"]}}}, "names 'foo'"),
        ({"tune": {"adapter": {"name": "lora", "init": "pissa"}}}, "another method than lora"),
        ({"tune": {"objective": {"name": "sft", "foo": 2}}}, "unknown key `tune.objective.foo`"),
        ({"tune": {"steps": 3, "epochs": 1}}, "both `tune.steps` and `tune.epochs`"),
        ({"task": {"metric": {"name": "exact", "foo": 1}}}, "unknown key `task.metric.foo`"),
    ],
)
def test_what_the_plan_would_refuse_is_refused_before_any_row_is_read(
    tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        unfit(tmp_path, **sections)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "scaled"),
    [
        ({"final_logit_softcapping": 30.0}, True),
        ({"text_config": {"logits_scaling": 8.0}}, True),
        ({"logit_scale": 0.0625}, True),
        ({"final_logit_softcapping": None, "logits_scaling": 1.0}, False),
    ],
)
def test_a_base_whose_logits_are_scaled_is_refused_before_any_row_is_read(
    tmp_path: Path, settings: dict[str, Any], scaled: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if not scaled:
        unfit(tmp_path)
        return
    with pytest.raises(ModelError, match="not its head's product alone") as caught:
        unfit(tmp_path)
    assert "Gemma 3" in caught.value.hint


def test_what_the_plan_can_follow_passes(tmp_path: Path) -> None:
    unfit(tmp_path)
    unfit(tmp_path, task="choice", prove={"arms": ["zero_shot", "tuned"]}, tune={"adapter": "qlora", "epochs": 2})
    unfit(tmp_path, form="classifier", task="choice", prove={"arms": ["majority", "nearest", "tuned"]})
    with pytest.raises(RecipeError, match="another method than lora"):
        unfit(tmp_path, form="classifier", task="choice", tune={"adapter": {"name": "lora", "init": "pissa"}})
