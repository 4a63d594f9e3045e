"""Against a real server on loopback: whatever it does, each question comes back once, answered or failed by name."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor.ask import Answer, Question, Wish
from sartor.ask.endpoint import Config, Endpoint, open_asker
from sartor.errors import MachineError, RecipeError, UserError
from sartor.recipe import validated
from sartor.types import Message

from .fake_endpoint import Act, Script, serving

KEY = "sk-canary-0123456789"


class Naps:
    """A sleep that only remembers how long it should have been."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


def questions(number: int) -> list[Question]:
    return [Question(f"q{n}", (Message(role="user", content=f"Number {n}?"),)) for n in range(number)]


def asked(
    script: Script, *, number: int = 1, wish: Wish | None = None, **config: Any
) -> tuple[list[Answer], Any, Naps]:
    naps = Naps()
    with serving(script) as server:
        asker = Endpoint(Config(url=server.url, model="fake", **config), sleep=naps)
        answers = list(asker.ask(questions(number), wish or Wish()))
    return answers, server, naps


def told(error: UserError) -> str:
    """All that anybody may see of an error."""
    return "".join(traceback.format_exception(error)) + error.hint


def test_every_question_is_answered_once_with_its_tokens() -> None:
    answers, server, naps = asked(lambda body, before: Act(text=body["messages"][0]["content"]), number=9)
    assert {answer.key: answer.text for answer in answers} == {f"q{n}": f"Number {n}?" for n in range(9)}
    assert {(answer.prompt_tokens, answer.output_tokens, answer.tries) for answer in answers} == {(7, 3, 1)}
    assert len(server.asked) == 9
    assert naps.taken == []


def test_what_is_sent_is_what_the_api_takes() -> None:
    wish = Wish(max_tokens=11, temperature=0.25, schema={"type": "object"})
    _, server, _ = asked(lambda body, before: Act(), wish=wish)
    (body,) = server.asked
    assert body["model"] == "fake"
    assert body["max_tokens"] == 11
    assert body["temperature"] == 0.25
    assert body["messages"] == [{"role": "user", "content": "Number 0?"}]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert 0 <= body["seed"] < 2**31
    assert "authorization" not in server.headers[0]


def test_as_many_are_under_way_as_is_said_and_no_more() -> None:
    with serving(lambda body, before: Act(), barrier=threading.Barrier(3)) as server:
        asker = Endpoint(Config(url=server.url, model="fake", concurrency=3), sleep=Naps())
        assert len(list(asker.ask(questions(9), Wish()))) == 9
    assert server.most_under_way == 3


PASSING = {
    "busy": Act(status=429, text="slow down"),
    "error": Act(status=500, text="oops"),
    "overloaded": Act(status=503, raw=b"<html>no json</html>"),
    "reset": Act(reset=True),
    "broken off": Act(reset=True, half=True),
    "no json": Act(raw=b"I am a teapot"),
    "deep": Act(raw=b"[" * 5000),
    "other keys": Act(raw=b'{"result": "yes"}'),
    "a list": Act(raw=b"[1, 2]"),
    "no choices": Act(raw=b'{"choices": []}'),
    "null choices": Act(raw=b'{"choices": null}'),
    "words for choices": Act(raw=b'{"choices": ["yes"]}'),
    "no message": Act(raw=b'{"choices": [{"text": "yes"}]}'),
    "empty": Act(text=""),
    "blank": Act(text=" \n"),
    "null": Act(text=None),
    "number": Act(text=3),
    "surrogate": Act(text="\ud800"),
    "nul": Act(text="a\0b"),
}


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING.keys())
def test_what_is_passing_is_asked_again(trouble: Act) -> None:
    answers, server, naps = asked(lambda body, before: Act() if before == 2 else trouble)
    assert [(answer.text, answer.failure, answer.tries) for answer in answers] == [("Yes.", "", 3)]
    assert len(server.asked) == 3
    assert 0.5 <= naps.taken[0] <= 1 <= naps.taken[1] <= 2


@pytest.mark.parametrize("trouble", PASSING.values(), ids=PASSING.keys())
def test_what_does_not_pass_is_a_failure_by_name(trouble: Act) -> None:
    (answer,), server, _ = asked(lambda body, before: trouble, tries=3)
    assert answer.text == ""
    assert answer.failure.partition(":")[0] in {"http_429", "http_500", "http_503", "broken_off", "bad_reply", "empty"}
    assert answer.tries == len(server.asked) == 3


def test_a_server_that_says_nothing_has_a_deadline() -> None:
    answers, _, _ = asked(lambda body, before: Act(stall=True), number=4, timeout=0.05, tries=2, concurrency=4)
    assert {answer.failure.partition(":")[0] for answer in answers} == {"timeout"}
    assert {answer.tries for answer in answers} == {2}


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    busy = Act(status=429, headers={"retry-after": "17"})
    answers, _, naps = asked(lambda body, before: busy if not before else Act())
    assert answers[0].text == "Yes."
    assert naps.taken == [17.0]


def test_nobody_waits_for_an_hour() -> None:
    (answer,), server, naps = asked(lambda body, before: Act(status=503, headers={"retry-after": "3600"}))
    assert answer.failure.startswith("http_503")
    assert (len(server.asked), naps.taken) == (1, [])


def test_two_runs_wait_alike() -> None:
    script: Script = lambda body, before: Act(status=500)  # noqa: E731
    assert asked(script, number=2, concurrency=1)[2].taken == asked(script, number=2, concurrency=1)[2].taken


@pytest.mark.parametrize("usage", [None, {}, [], {"prompt_tokens": -5, "completion_tokens": 2}, {"prompt_tokens": "7"}])
def test_tokens_that_are_not_said_are_reckoned_and_told(usage: Any) -> None:
    (answer,), _, _ = asked(lambda body, before: Act(text="Twelve chars", usage=usage))
    assert answer.estimated
    assert (answer.prompt_tokens, answer.output_tokens) == (3, 3)


def test_what_was_paid_for_in_vain_is_counted() -> None:
    (answer,), _, _ = asked(lambda body, before: Act(text="" if before < 2 else "Yes."))
    assert (answer.prompt_tokens, answer.output_tokens, answer.tries) == (21, 9, 3)


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        (Act(text=None, message={"refusal": "I will not"}), "refused: "),
        (Act(text="", finish="content_filter"), "filtered: "),
        (Act(status=400, text="context length exceeded"), "http_400: "),
        (Act(raw=b"x" * (9 * 2**20)), "too_long: "),
    ],
)
def test_what_will_not_change_is_asked_once(act: Act, failure: str) -> None:
    (answer,), server, _ = asked(lambda body, before: act)
    assert answer.failure.startswith(failure)
    assert len(server.asked) == 1


def test_an_answer_that_is_cut_says_so() -> None:
    (answer,), _, _ = asked(lambda body, before: Act(finish="length"))
    assert answer.truncated


def test_texts_in_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Yes, "}, {"type": "text", "text": "yes."}]
    (answer,), _, _ = asked(lambda body, before: Act(text=parts))
    assert answer.text == "Yes, yes."


def test_a_server_without_schemas_is_asked_without_them_from_then_on() -> None:
    def script(body: dict[str, Any], before: int) -> Act:
        return Act(status=400, text="unknown field") if "response_format" in body else Act()

    answers, server, naps = asked(script, number=3, wish=Wish(schema={"type": "object"}), concurrency=1)
    assert [answer.text for answer in answers] == ["Yes."] * 3
    kinds = [body.get("response_format", {}).get("type", "") for body in server.asked]
    assert kinds == ["json_schema", "json_object", "", "", ""]
    assert naps.taken == []


def test_parameters_that_a_model_does_not_take_are_left_out() -> None:
    def script(body: dict[str, Any], before: int) -> Act:
        for name, said in (("max_tokens", "use max_completion_tokens"), ("temperature", "no temperature")):
            if name in body:
                return Act(status=400, text=said)
        return Act()

    (answer,), server, _ = asked(script)
    assert answer.text == "Yes."
    assert server.asked[-1]["max_completion_tokens"] == 512


def test_a_question_that_is_refused_whatever_the_manner_does_not_change_the_manner() -> None:
    def script(body: dict[str, Any], before: int) -> Act:
        return Act(status=400, text="too long") if "0?" in body["messages"][0]["content"] else Act()

    answers, server, _ = asked(script, number=2, wish=Wish(schema={"type": "object"}), concurrency=1)
    assert [bool(answer.failure) for answer in answers] == [True, False]
    assert server.asked[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("status", [302, 401, 402, 403, 404])
def test_what_no_question_would_survive_ends_the_job(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)
    script: Script = lambda body, before: Act(status=status, text=f"you sent {KEY}")  # noqa: E731
    with pytest.raises(UserError) as found:
        asked(script, number=5, key="FAKE_KEY")
    assert str(status) in found.value.message
    assert KEY not in told(found.value)


def test_an_account_without_credit_is_not_waited_for() -> None:
    broke = Act(status=429, raw=b'{"error": {"message": "no credit", "code": "insufficient_quota"}}')
    with pytest.raises(UserError, match="no credit"):
        asked(lambda body, before: broke)


def test_nobody_there() -> None:
    with serving(lambda body, before: Act()) as server:
        url = server.url
    naps = Naps()
    with pytest.raises(MachineError) as found:
        list(Endpoint(Config(url=url, model="fake", tries=3), sleep=naps).ask(questions(2), Wish()))
    assert "start it" in found.value.hint
    assert len(naps.taken) >= 2


def test_the_key_is_sent_and_stands_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)
    (answer,), server, _ = asked(lambda body, before: Act(status=400, text=f"bad {KEY}"), key="FAKE_KEY")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(answer)
    assert KEY not in repr(open_asker(Config(url=server.url, model="fake", key="FAKE_KEY")))


@pytest.mark.parametrize("key", ["test", "token", "choices", "Run the tests"])
def test_an_answer_stays_as_it_was_said_whatever_the_key_is(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", key)
    said = "Run the tests with `make test`: a token has its choices."
    (answer,), _, _ = asked(lambda body, before: Act(text=said), key="FAKE_KEY")
    assert (answer.text, answer.failure, answer.estimated) == (said, "", False)
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 3)


@pytest.mark.parametrize("key", [KEY, "0123456789abcdefghijklmnopqrstuvwxyz", "with/slashes/in-it", "a b" * 40])
@pytest.mark.parametrize(
    "act",
    [
        lambda key: Act(status=400, text=f"you sent {key}"),
        lambda key: Act(status=400, text=f"{'x' * 70}{key}"),
        lambda key: Act(status=500, raw=key.encode()),
        lambda key: Act(status=400, raw=f'{{"error": "{key.replace("/", chr(92) + "/")}"}}'.encode()),
        lambda key: Act(raw=key.encode()),
        lambda key: Act(raw=f'{{"{key}": 1, "{key}": 2}}'.encode()),
        lambda key: Act(raw=f'{{"{key}": 1}}'.encode()),
        lambda key: Act(raw=f'{{"choices": [{{"message": "{"x" * 70}{key}"}}]}}'.encode()),
        lambda key: Act(text={key: key}),
        lambda key: Act(text=None, message={"refusal": f"I will not tell {key}"}),
    ],
)
def test_no_failure_tells_a_piece_of_the_key(act: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", key)
    (answer,), _, _ = asked(lambda body, before: act(key), key="FAKE_KEY", tries=1)
    assert answer.failure
    assert not [key[at : at + 8] for at in range(len(key) - 7) if key[at : at + 8] in answer.failure]


def test_a_refused_parameter_is_left_out_though_the_key_is_part_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", "temp")

    def script(body: dict[str, Any], before: int) -> Act:
        return Act(status=400, text="no temperature") if "temperature" in body else Act()

    (answer,), _, _ = asked(script, key="FAKE_KEY")
    assert answer.text == "Yes."


def test_answers_come_as_they_are_done_and_leaving_early_takes_the_rest_back() -> None:
    def script(body: dict[str, Any], before: int) -> Act:
        return Act(stall="0?" in body["messages"][0]["content"])

    with serving(script) as server:
        answers = Endpoint(Config(url=server.url, model="fake", concurrency=2)).ask(questions(50), Wish())
        assert next(answers).key == "q1"
        answers.close()  # type: ignore[attr-defined]
        num_asked = len(server.asked)
    assert num_asked < 50


def test_an_error_of_whoever_brings_the_questions_is_theirs() -> None:
    def broken() -> Iterator[Question]:
        yield from questions(2)
        raise UserError("the file ends here", hint="mend it")

    with serving(lambda body, before: Act()) as server, pytest.raises(UserError, match="the file ends here"):
        list(Endpoint(Config(url=server.url, model="fake"), sleep=Naps()).ask(broken(), Wish()))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://user:secret@host/v1",
        "http://secret@host/v1",
        "http://user:secret@[::1/v1",
        "user:secret@host/v1",
        "http://host/v1?api_key=secret",
        "http://host/v1#secret",
        "http://host:secret/v1",
        ["http://secret@host/v1"],
        5,
    ],
)
def test_urls_that_are_none(url: Any) -> None:
    with pytest.raises(RecipeError, match=r"`who\.url`: it is the base of an API") as found:
        validated(Config, {"url": url, "model": "fake"}, "who")
    assert "secret" not in told(found.value)


@pytest.mark.parametrize("key", ["sk-secret123", "a secret", "secret=1", "1secret", "clé-secret", ["secret"], 5, None])
def test_a_key_in_the_place_of_its_name_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(RecipeError, match=r"`who\.key`: it names an environment variable") as found:
        validated(Config, {"url": "http://localhost/v1", "model": "fake", "key": key}, "who")
    assert "secret" not in told(found.value)
    with pytest.raises(ValidationError) as raw:
        Config(url="http://localhost/v1", model="fake", key=key)
    assert "secret" not in str(raw.value)


@pytest.mark.parametrize("key", ["", "MY_KEY", "_key", "key2"])
def test_names_of_variables_are_taken(key: str) -> None:
    assert Config(url="http://localhost/v1", model="fake", key=key).key == key


def test_a_key_under_another_name_is_refused_and_not_shown() -> None:
    typed = {"url": "http://localhost/v1", "model": "fake", "api_key": "sk-secret123"}
    with pytest.raises(RecipeError, match=r"unknown key `who\.api_key`") as found:
        validated(Config, typed, "who")
    assert "secret" not in told(found.value)


def test_a_key_never_goes_out_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY", KEY)
    with pytest.raises(UserError, match="plain text"):
        open_asker(Config(url="http://example.com/v1", model="fake", key="FAKE_KEY"))
    with pytest.raises(UserError, match="is not set"):
        open_asker(Config(url="https://example.com/v1", model="fake", key="NO_SUCH_KEY"))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError):
        Config(url="http://localhost/v1", model="fake", concurrency=0)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([*PASSING.values(), Act(), Act(status=400), Act(usage=None)]), min_size=1, max_size=6))
def test_whatever_a_server_does_each_question_comes_back_once(acts: list[Act]) -> None:
    count = iter(range(10_000))
    answers, _, _ = asked(lambda body, before: acts[next(count) % len(acts)], number=7, tries=2)
    assert sorted(answer.key for answer in answers) == [f"q{n}" for n in range(7)]
    assert all(bool(answer.text) != bool(answer.failure) for answer in answers)
