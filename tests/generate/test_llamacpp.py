"""llama.cpp against the real model in our own engine, and the ways in which a GGUF can be the wrong one.

What any engine must do is in `tests/contract/test_engines.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sartor.chat import open_renderer
from sartor.errors import ModelError, UserError
from sartor.generate import llamacpp, sartor
from sartor.generate.llamacpp import LlamaCppEngine, open_engine
from sartor.generate.protocol import Engine, Sampling
from sartor.types import Message

from ..engines import answers  # noqa: TID252 - the tests are no package to import by name
from ..gguf_files import embedded_gguf, write_model  # noqa: TID252

QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    "Say hello in Spanish.",
    "What is 2 + 2?",
    "Which planet is the largest?",
    "Is water wet?",
    "Give me a word that rhymes with cat.",
    "Who wrote Hamlet?",
)
GREEDY = Sampling(max_new_tokens=12, stop_ids=frozenset({2}))


@pytest.fixture(scope="module")
def real() -> Iterator[LlamaCppEngine]:
    engine = open_engine(embedded_gguf(), {}, dtype="float32", num_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def ours(smollm2_folder: Path) -> Engine:
    return sartor.open_engine(smollm2_folder, {}, dtype="float32", num_threads=1)


@pytest.fixture(scope="module")
def prompts(smollm2_folder: Path) -> list[list[int]]:
    renderer = open_renderer(smollm2_folder)
    return [list(renderer.prompt([Message(role="user", content=question)])) for question in QUESTIONS]


@pytest.fixture(scope="module")
def tiny_gguf(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tiny_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


# ---- the real model --------------------------------------------------------------------------------------------------


def test_the_quantised_model_answers_as_the_dequantised_one(
    real: LlamaCppEngine, ours: Engine, prompts: list[list[int]]
) -> None:
    """llama.cpp rounds activations to 8 bits, so answers part where two tokens are about as likely.

    Measured: 7 of 8 first tokens are the same, and at most 0.6 nats lie between the two at which an answer parts. With
    the same weights as a GGUF in fp32, all 8 answers are the same, which is too large a file for a test; the contract
    has it on the tiny model.
    """
    theirs, mine = answers(real, prompts, GREEDY), answers(ours, prompts, GREEDY)
    assert sum(left[0] == right[0] for left, right in zip(theirs, mine, strict=True)) >= len(prompts) - 2
    for prompt, left, right in zip(prompts, theirs, mine, strict=True):
        if left != right:
            apart = next(place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
            taken, other = ours.logprobs([[*prompt, *row[: apart + 1]] for row in (left, right)], None)
            assert 0 <= other - taken < 1.0, "nats between the two tokens at which they part; ours took the likelier"


def test_logprobs_are_those_of_the_dequantised_model(
    real: LlamaCppEngine, ours: Engine, prompts: list[list[int]]
) -> None:
    """Measured: 0.5 to 1.0 % lower, for the rounded activations; of the same weights in fp32, the same to 4 digits."""
    found, wanted = real.logprobs(prompts[:2], None), ours.logprobs(prompts[:2], None)
    assert found == pytest.approx(wanted, rel=0.02)
    assert ours.logprobs([[1, *ids] for ids in prompts[:2]], None) != pytest.approx(wanted, rel=0.02), "a BOS is seen"


def test_the_context_is_of_one_row(real: LlamaCppEngine) -> None:
    assert real.context == llamacpp.LONGEST_CONTEXT


# ---- exactly our ids -------------------------------------------------------------------------------------------------


def test_tokens_that_end_inside_a_character_come_out_like_all_others(
    tiny_gguf: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """llama.cpp's own streams leave their ids out, and its log-probabilities too."""
    engine = open_engine(tiny_gguf, {}, dtype="float32", num_threads=1)
    (whole,) = answers(engine, [[1, 40, 7]], GREEDY)
    (weight,) = engine.logprobs([[1, *whole]], None)
    engine.close()
    renamed = write_model(tiny_folder, tmp_path / "halves.gguf", halves=whole[1:4])
    engine = open_engine(renamed, {}, dtype="float32", num_threads=1)
    assert answers(engine, [[1, 40, 7]], GREEDY) == [whole]
    assert engine.logprobs([[1, *whole]], None) == [pytest.approx(weight, abs=1e-3)]
    asked = {"prompt": [1, 40, 7], "n_predict": len(whole), "temperature": 0.0, "stream": True, "return_tokens": True}
    streamed = engine._client.post("/completion", json=asked).text
    assert f'"tokens":[{whole[0]}]' in streamed
    assert f'"tokens":[{whole[1]}]' not in streamed, (
        "llama.cpp streams them now: one request a token may be too careful"
    )
    engine.close()


def test_the_models_own_end_ends_nothing_that_ours_does_not(tiny_gguf: Path, tiny_folder: Path, tmp_path: Path) -> None:
    engine = open_engine(tiny_gguf, {}, dtype="float32", num_threads=1)
    free = answers(engine, [[1, 40, 7]], GREEDY)[0]
    engine.close()
    other = write_model(tiny_folder, tmp_path / "other.gguf", eos=free[3])
    engine = open_engine(other, {}, dtype="float32", num_threads=1)
    assert answers(engine, [[1, 40, 7]], GREEDY)[0] == free
    tokens = list(engine.stream([[1, 40, 7]], Sampling(12, frozenset({free[3]})), None))
    assert [token.id for token in tokens] == free[: free.index(free[3]) + 1]
    assert tokens[-1].finish == "stop"
    engine.close()


def test_ids_of_another_tokenizer_are_refused(real: LlamaCppEngine) -> None:
    for wrong in (49152, -1):
        with pytest.raises(UserError, match=f"token {wrong} is not among the 49152") as caught:
            real.submit([1, wrong], GREEDY, None)
        assert "tokenizer" in caught.value.hint
    with pytest.raises(UserError, match="not among"):
        real.logprobs([[1, 49152]], None)


# ---- what is not for it ----------------------------------------------------------------------------------------------


def open_on(base: Path, **adapters: Path) -> Any:
    return open_engine(base, adapters, num_threads=1)


def test_a_folder_that_holds_one_gguf_stands_for_it(tiny_gguf: Path) -> None:
    engine = open_on(tiny_gguf.parent)
    assert engine.context == 512
    engine.close()


def test_a_base_that_is_no_gguf_is_refused_with_the_way_out(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no GGUF file") as caught:
        open_on(tiny_folder)
    assert "`sartor`" in caught.value.hint
    with pytest.raises(ModelError, match="it begins with b"):
        open_on(tiny_folder / "config.json")
    with pytest.raises(ModelError, match="No such file"):
        open_on(tmp_path / "nowhere.gguf")
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        open_on(tmp_path)


def test_a_damaged_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(embedded_gguf().read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cannot load half\.gguf") as caught:
        open_on(tmp_path / "half.gguf")
    assert "damaged" in caught.value.hint


def test_an_adapter_in_peft_form_is_refused_with_the_way_out(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no GGUF file") as caught:
        open_on(tiny_gguf, calls=tmp_path)
    assert "convert_lora_to_gguf.py" in caught.value.hint


def test_a_model_in_the_place_of_an_adapter_is_refused(tiny_gguf: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load tiny\.gguf, tiny\.gguf"):
        open_on(tiny_gguf, calls=tiny_gguf)


def test_nobody_else_can_ask_its_server(real: LlamaCppEngine) -> None:
    import httpx2

    address = real._server.listening_address
    assert address.startswith("http://127.0.0.1:")
    assert httpx2.post(f"{address}/completion", json={"prompt": [1]}).status_code == 401


def test_what_sartor_makes_is_refused_before_it_is_read(tiny_gguf: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "calls"
    for folder in (base, adapter):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"base holds no GGUF file") as no_base:
        llamacpp.require_files(base, {"calls": adapter})
    (base / "base.gguf").write_bytes(tiny_gguf.read_bytes())
    with pytest.raises(ModelError, match=r"calls holds no GGUF file") as no_adapter:
        llamacpp.require_files(base, {"calls": adapter})
    assert "convert_lora_to_gguf.py" in no_adapter.value.hint
    for refused in (no_base, no_adapter):
        assert "leave `--engine` out" in refused.value.hint
    (adapter / "calls.gguf").write_bytes(b"GGUF")
    llamacpp.require_files(base, {"calls": adapter})
