"""Base models from folders and files; nothing here may touch the network."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sartor import durable, hub
from sartor.errors import ModelError
from sartor.recipe import ModelSpec

CONFIG = {
    "hidden_size": 8,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        pytest.fail("a test used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model folder; None takes a key out of its configuration."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "my-model"
        folder.mkdir(exist_ok=True)
        config = {key: value for key, value in {**CONFIG, **changes}.items() if value != "absent"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    return make


# ---- find ------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_answers_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown model 'smollm2-135m-instuct'") as caught:
        hub.find(ModelSpec(name="smollm2-135m-instuct"), root=tmp_path)
    assert "did you mean 'smollm2-135m-instruct'" in caught.value.hint


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="has no safetensors weights") as caught:
        hub.find(ModelSpec(name="my-model"), root=tmp_path)
    assert "pickled weights can run code" in caught.value.hint


def test_a_missing_gguf_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no GGUF file at .*tiny\.gguf"):
        hub.find(ModelSpec(name="tiny.gguf"), root=tmp_path)


@pytest.mark.parametrize("name", ["./my-bse", "/models/typo", "../a", "a/b/c"])
def test_a_mistyped_path_is_not_looked_for_on_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no folder at") as caught:
        hub.find(ModelSpec(name=name), root=tmp_path)
    assert "relative to the recipe" in caught.value.hint


def test_a_damaged_gguf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match=r"m\.gguf cannot be read as a GGUF"):
        hub.find(ModelSpec(name="m.gguf"), root=tmp_path)
    assert not list((tmp_path / "cache/models").glob("m-*"))


def test_a_folder_is_found_below_the_recipe(tmp_path: Path, model: Callable[..., Path]) -> None:
    folder = model()
    base = hub.find(ModelSpec(name="my-model"), root=tmp_path)
    assert (base.name, base.folder, base.revision) == ("my-model", folder.resolve(), "local")
    assert hub.find(ModelSpec(name=str(folder)), root=tmp_path / "elsewhere").digest == base.digest


def test_the_digest_covers_weights_configuration_and_template(tmp_path: Path, model: Callable[..., Path]) -> None:
    folder = model()
    seen = {hub.find(ModelSpec(name="my-model"), root=tmp_path).digest}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes(b"{} ")
        seen.add(hub.find(ModelSpec(name="my-model"), root=tmp_path).digest)
    assert len(seen) == 5
    (folder / "README.md").write_text("words")
    assert hub.find(ModelSpec(name="my-model"), root=tmp_path).digest in seen


def test_a_sealed_folder_is_vouched_for_by_its_manifest(tmp_path: Path, model: Callable[..., Path]) -> None:
    folder = model()
    durable.seal(folder)
    digest = hub.find(ModelSpec(name="my-model"), root=tmp_path).digest
    assert digest == durable.sha256(folder / durable.MANIFEST)
    (folder / "model.safetensors").write_bytes(b"other..")
    assert hub.find(ModelSpec(name="my-model"), root=tmp_path).digest != digest


def test_a_gguf_in_the_cache_is_not_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "Tiny.gguf"
    file.write_bytes(b"GGUF")
    cached = tmp_path / "cache" / "models" / f"tiny-{durable.sha256(file)[:12]}"
    with durable.atomic_dir(cached) as staging:
        (staging / "model.safetensors").write_bytes(b"weights")
    base = hub.find(ModelSpec(name="Tiny.gguf"), root=tmp_path)
    assert (base.name, base.folder, base.revision) == ("tiny", cached, "gguf")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert hub.cache_dir() == Path("/a")
    monkeypatch.setenv("SARTOR_CACHE", "")
    assert hub.cache_dir() == Path("/b/sartor")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub.cache_dir() == Path.home() / ".cache" / "sartor"


# ---- shape -----------------------------------------------------------------------------------------------------------


def test_shape_by_hand(model: Callable[..., Path]) -> None:
    shape = hub.shape(model())
    assert (shape.num_layers, shape.hidden, shape.inner, shape.head_dim) == (3, 8, 20, 2)
    assert (shape.num_heads, shape.num_kv_heads, shape.vocab, shape.tied, shape.context) == (4, 2, 100, True, 64)
    assert shape.linear_sizes()["k_proj"] == (8, 4)
    block = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 20  # q, k and v, o, the three of the MLP
    assert shape.num_linear == 3 * block
    assert shape.num_parameters == 3 * block + 100 * 8 + 7 * 8
    assert hub.shape(model(tie_word_embeddings=False)).num_parameters == shape.num_parameters + 100 * 8


def test_keys_that_may_be_missing(model: Callable[..., Path]) -> None:
    shape = hub.shape(model(num_key_value_heads="absent", max_position_embeddings="absent", head_dim=16))
    assert (shape.num_kv_heads, shape.context, shape.head_dim) == (4, 2048, 16)
    assert hub.shape(model(num_key_value_heads=None)).num_kv_heads == 4


LONG = {"short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("written", "context"),
    [
        ({"rope_scaling": {"type": "longrope", **LONG}, "original_max_position_embeddings": 16}, 16),
        ({"rope_scaling": {"type": "su", **LONG}, "original_max_position_embeddings": 16}, 16),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 16, **LONG}}, 16),
        ({"rope_scaling": {"type": "longrope", **LONG}, "original_max_position_embeddings": 99}, 64),
        ({"rope_scaling": {"type": "longrope", **LONG}}, 64),
        ({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 16}}, 64),
        ({"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_type": "default"}}}, 64),
    ],
)
def test_longrope_ends_where_its_other_frequencies_begin(
    model: Callable[..., Path], written: dict[str, Any], context: int
) -> None:
    assert hub.shape(model(**written)).context == context


def test_the_language_part_of_a_larger_model(model: Callable[..., Path]) -> None:
    assert hub.shape(model(hidden_size=999, text_config=CONFIG)).hidden == 8
    assert hub.shape(model(text_config=None)).hidden == 8


def test_who_ties_its_head_where_nothing_says_so(model: Callable[..., Path]) -> None:
    missing: dict[str, Any] = {"tie_word_embeddings": "absent"}
    assert not hub.shape(model(model_type="mistral", **missing)).tied
    assert hub.shape(model(model_type="gemma2", **missing)).tied
    part = {key: value for key, value in CONFIG.items() if key != "tie_word_embeddings"}
    assert hub.shape(model(text_config=part)).tied
    assert not hub.shape(model(text_config=part, tie_word_embeddings=False)).tied


@pytest.mark.parametrize("key", ["num_local_experts", "num_experts", "n_routed_experts"])
def test_a_mixture_of_experts_is_refused(model: Callable[..., Path], key: str) -> None:
    with pytest.raises(ModelError, match="my-model is a mixture of 8 experts") as caught:
        hub.shape(model(**{key: 8}))
    assert "Llama" in caught.value.hint
    assert hub.shape(model(**{key: 0})).hidden == 8


def test_an_encoder_that_names_its_sizes_in_its_own_way(model: Callable[..., Path]) -> None:
    own = {"model_type": "distilbert", "dim": 8, "hidden_dim": 20, "n_layers": 3, "n_heads": 4}
    folder = model(**own)
    (folder / "model.safetensors").unlink()
    assert (hub.shape(folder).hidden, hub.shape(folder).inner, hub.shape(folder).kind) == (8, 20, "encoder")


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_size_is_named(model: Callable[..., Path], key: str) -> None:
    with pytest.raises(ModelError, match=f"my-model: config.json has no '{key}'") as caught:
        hub.shape(model(**{key: "absent"}))
    assert "Llama" in caught.value.hint


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"vocab_size": "many"}, {"num_attention_heads": 0}])
def test_a_size_that_is_no_number_is_refused(model: Callable[..., Path], change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="a size that is no number"):
        hub.shape(model(**change))


@pytest.mark.parametrize(("text", "said"), [("[]", "not a JSON object"), ("{", "no readable"), (None, "no readable")])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        hub.shape(tmp_path)


def test_stop_tokens(model: Callable[..., Path]) -> None:
    assert hub.stop_token_ids(model()) == frozenset()
    assert hub.stop_token_ids(model(eos_token_id=2)) == {2}
    folder = model(eos_token_id=2)
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert hub.stop_token_ids(folder) == {3, 4}
    (folder / "generation_config.json").write_text("{}")
    assert hub.stop_token_ids(folder) == {2}
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"no readable generation_config\.json"):
        hub.stop_token_ids(folder)
