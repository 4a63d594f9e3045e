"""Several engines as one: each request to the engine that has its adapter, under handles of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sartor.errors import UserError
from sartor.generate import peft
from sartor.generate.protocol import Sampling
from sartor.generate.several import Several

from ..engines import answers  # noqa: TID252 - the tests are no package to import by name

GREEDY = Sampling(max_new_tokens=5, stop_ids=frozenset())


@pytest.fixture(scope="module")
def parts(family_folder: Callable[[str], Path], make_adapters: Callable[..., dict[str, Path]]) -> list[peft.PeftEngine]:
    base = family_folder("Llama")
    folders = make_adapters(base, "calls", "mails")
    return [peft.open_engine(base, {name: folders[name]}, dtype="float32") for name in folders]


def test_requests_go_where_their_adapter_is(parts: list[peft.PeftEngine]) -> None:
    both = Several(parts, ("mails", "calls"))
    assert both.adapters == ("mails", "calls") and both.context == 256 and both.warnings == ()
    prompt = [5, 6, 7]
    wanted = [answers(part, [prompt], GREEDY, part.adapters[0])[0] for part in parts]
    rows = answers(both, [prompt] * 3, GREEDY, ("mails", None, "calls"))
    assert [rows[2], rows[0]] == wanted
    assert [rows[1]] == answers(parts[0], [prompt], GREEDY)
    assert both.logprobs([prompt], "mails") == parts[1].logprobs([prompt], "mails")
    with pytest.raises(UserError, match="no adapter 'mail'"):
        both.submit(prompt, GREEDY, "mail")


def test_if_one_breaks_the_requests_of_all_are_gone(
    parts: list[peft.PeftEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Several(parts, ("calls", "mails"))
    for name in both.adapters:
        both.submit([5, 6], GREEDY, name)
    both.advance()

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as planted, pytest.raises(RuntimeError, match="out of memory"):
        planted.setattr(parts[1], "_step", broken)
        both.advance()
    assert not both.requests and not any(part.requests for part in parts)
    handle = both.submit([5, 6], GREEDY, "mails")
    assert [token.row for token in both.advance()] == [handle]
    both.cancel(handle)
    assert both.advance() == []
    both.close()
