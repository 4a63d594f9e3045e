"""The contract of a family of tuning methods, over every method of every family: adding one adds its rows here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from sartor import durable, names
from sartor.adapters import family_of, family_of_type, methods, preset_of, registration
from sartor.adapters.hooks import Hooks
from sartor.adapters.method import Preset
from sartor.errors import RecipeError
from sartor.hub import Shape, shape
from sartor.types import Frozen

FAMILIES = names.known("adapters")
METHODS = methods()
#: In another process: nothing of ours is loaded there, only what everybody has; for methods of ours, what makes them
#: known to PEFT. Arguments: the base, then an export's folder and a file for its logits, again and again.
ELSEWHERE = """
import sys, torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
if {ours}:
    import sartor.peft
for folder, target in zip(sys.argv[2::2], sys.argv[3::2]):
    loaded = AutoModelForCausalLM.from_pretrained(sys.argv[1] if {adapter} else folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(loaded, folder) if {adapter} else loaded
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([[1, 5, 9, 200, 3000]])).logits
    save_file({{"logits": logits}}, target)
assert {ours} or not any(name.split(".")[0] == "sartor" for name in sys.modules)
"""
#: What the folder holds, by `TRAINS`.
FILES = {
    "adapter": {"adapter_config.json", "adapter_model.safetensors"},
    "model": {"config.json", "generation_config.json", "model.safetensors"},
}
IDS = torch.tensor([[1, 5, 9, 200, 3000]])
#: PEFT reads numbers of what it builds there, which a model without weights does not have.
NOT_ON_META = frozenset({"boft"})


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> ModuleType:
    return names.resolve("adapters", request.param)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def config_of(method: str, **settings: Any) -> Frozen:
    family = family_of(method)
    return family.Config(**{**family.PRESETS[method].settings, **settings})


def tiny_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def trainable(model: Any) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def save_config(folder: Path, kind: type[Any], **settings: Any) -> Path:
    """The configuration of three layers of a family, for models without weights."""
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 8}
    kind(**sizes, num_attention_heads=4, num_key_value_heads=2, **settings).save_pretrained(folder)
    return folder


def trained(folder: Path, method: str) -> Any:
    """An adapter that says something: as after training, every trainable number has moved."""
    model = family_of(method).attach(tiny_model(folder), config_of(method))
    torch.manual_seed(11)
    for parameter in trainable(model):
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


# ---- members ---------------------------------------------------------------------------------------------------------


def test_members(family: ModuleType) -> None:
    wanted = {"Config", "PRESETS", "TRAINS", "PEFT_TYPES", "HOOKS"}
    assert wanted | {"attach", "export", "count", "changes", "register"} <= set(vars(family))
    assert family.TRAINS in FILES
    assert isinstance(family.HOOKS, Hooks)
    assert all(family_of_type(name) is family for name in family.PEFT_TYPES)
    assert bool(family.PEFT_TYPES) == (family.TRAINS == "adapter")


def test_presets(method: str) -> None:
    preset = preset_of(method)
    assert isinstance(preset, Preset)
    assert 0 < len(preset.summary) <= 100
    assert "\n" not in preset.summary
    assert preset.paper
    assert "Sartor's engine" in preset.served_by
    assert preset.learning_rate > 0


def test_a_family_is_a_method_of_its_own_name(family: ModuleType) -> None:
    name = family.__name__.rpartition(".")[2]
    assert name in family.PRESETS
    assert METHODS[name] == name


def test_no_method_belongs_to_two_families() -> None:
    every = [preset for family in FAMILIES for preset in names.resolve("adapters", family).PRESETS]
    assert sorted(every) == sorted(METHODS)
    assert "lora" in METHODS


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="'loar'") as caught:
        family_of("loar")
    assert "did you mean 'lora'" in caught.value.hint


def test_presets_are_valid_and_round_trip(method: str) -> None:
    config = config_of(method)
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config_of(method, no_such_setting=1)
    with pytest.raises(ValidationError):
        config.__setattr__("r", 3)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def count_on_meta(folder: Path, method: str, *, device: str = "meta", **settings: Any) -> tuple[int, Shape]:
    """What the model itself counts, without a weight in memory; what is tied counts once."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model = family_of(method).attach(model, config_of(method, **settings))
    return sum(parameter.numel() for parameter in trainable(model)), shape(folder)


def test_the_count_is_exact(method: str, smollm2_folder: Path, tiny_folder: Path) -> None:
    device = "cpu" if method in NOT_ON_META else "meta"
    for folder in (tiny_folder,) if method in NOT_ON_META else (smollm2_folder, tiny_folder):
        counted, sizes = count_on_meta(folder, method, device=device)
        assert family_of(method).count(sizes, config_of(method)) == counted


def test_full_tuning_counts_what_is_tied_once(smollm2_folder: Path) -> None:
    counted, sizes = count_on_meta(smollm2_folder, "full")
    assert family_of("full").count(sizes, config_of("full")) == counted == 134_515_008


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, Gemma3TextConfig])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize(
    "method", [name for name in FAMILIES if "top_layers" in names.resolve("adapters", name).Config.model_fields]
)
def test_the_count_of_the_top_layers_is_exact(
    tmp_path: Path, method: str, kind: type[Any], tied: bool, num_layers: int
) -> None:
    folder = save_config(tmp_path, kind, tie_word_embeddings=tied)
    counted, sizes = count_on_meta(folder, method, top_layers=num_layers)
    assert family_of(method).count(sizes, config_of(method, top_layers=num_layers)) == counted


def test_lora_of_rank_16_on_all_linear_layers_of_smollm2(smollm2_folder: Path) -> None:
    counted, sizes = count_on_meta(smollm2_folder, "lora", r=16)
    assert family_of("lora").count(sizes, config_of("lora", r=16)) == counted == 4_884_480


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3},
        {"targets": ("q_proj", "v_proj")},
        {"r": 8, "targets": ("down_proj",)},
        {"targets": ("q_proj",), "top_layers": 7},
    ],
)
def test_the_count_follows_the_settings(smollm2_folder: Path, settings: dict[str, Any]) -> None:
    counted, sizes = count_on_meta(smollm2_folder, "lora", **settings)
    assert family_of("lora").count(sizes, config_of("lora", **settings)) == counted


def test_only_what_is_tuned_is_trained(method: str, tiny_folder: Path) -> None:
    """An adapter in fp32; a whole model in the format that it is computed in, its masters being the backend's."""
    model = family_of(method).attach(
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16), config_of(method)
    )
    own = list(trainable(model))
    assert sum(parameter.numel() for parameter in own) == family_of(method).count(shape(tiny_folder), config_of(method))
    wanted = {"adapter": torch.float32, "model": torch.bfloat16}[family_of(method).TRAINS]
    assert {parameter.dtype for parameter in own} == {wanted}


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("num_top", [1, 2])
def test_the_backward_ends_below_the_top_layers(tmp_path: Path, method: str, num_top: int) -> None:
    folder = save_config(tmp_path, LlamaConfig, tie_word_embeddings=True)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    layers = base.model.layers
    reached: list[int] = []
    model = family_of(method).attach(base, config_of(method, top_layers=num_top))
    for number, layer in enumerate(layers):
        layer.register_full_backward_hook(lambda part, inputs, outputs, number=number: reached.append(number))
    below: list[torch.Tensor] = []
    layers[2 - num_top].register_forward_hook(lambda part, inputs, output: below.append(output))
    model.train()(input_ids=IDS % 512).logits.square().sum().backward()
    tuned = range(3 - num_top, 3)
    assert set(reached) == set(tuned)
    assert not below[0].requires_grad
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.partition("layers.")[2].partition(".")[0] for name in moved} - {""} == set(map(str, tuned))


def test_full_tuning_of_the_top_leaves_tied_embeddings_alone(tmp_path: Path) -> None:
    names_of = {}
    for tied in (True, False):
        folder = save_config(tmp_path, LlamaConfig, tie_word_embeddings=tied)
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        model = family_of("full").attach(base, config_of("full", top_layers=1))
        names_of[tied] = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "model.norm.weight" in names_of[True]
    assert all(name.startswith(("model.layers.2.", "model.norm.")) for name in names_of[True])
    assert names_of[False] - names_of[True] == {"lm_head.weight"}


@pytest.mark.parametrize(
    "method", [name for name in FAMILIES if "targets" in names.resolve("adapters", name).Config.model_fields]
)
def test_a_layer_that_the_model_lacks_is_refused_not_passed_over(method: str, tiny_folder: Path) -> None:
    with pytest.raises(RecipeError, match="qkv_proj") as caught:
        family_of(method).attach(tiny_model(tiny_folder), config_of(method, targets=("q_proj", "qkv_proj")))
    assert "_proj" in caught.value.hint


@pytest.mark.parametrize("method", ["full", "lora"])
def test_more_top_layers_than_there_are_is_refused(tmp_path: Path, method: str) -> None:
    folder = save_config(tmp_path, LlamaConfig, tie_word_embeddings=True)
    family, config = family_of(method), config_of(method, top_layers=4)
    with pytest.raises(RecipeError, match=r"`tune\.adapter\.top_layers` is 4, and the model has 3 layers") as caught:
        family.count(shape(folder), config)
    assert "at most 3" in caught.value.hint
    with pytest.raises(RecipeError, match="is 4, and the model has 3 layers"):
        family.attach(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), config)
    for wrong in (-1, 1.5, "all"):
        with pytest.raises(ValidationError):
            config_of(method, top_layers=wrong)


def test_top_layers_of_a_model_that_keeps_them_elsewhere(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=64, n_embd=8, n_layer=2, n_head=2))
    family_of("full").attach(model, config_of("full", top_layers=1))
    tuned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "transformer.ln_f.weight" in tuned
    assert all(name.startswith(("transformer.h.1.", "transformer.ln_f.")) for name in tuned)
    assert all(parameter.requires_grad for parameter in family_of("full").attach(model, config_of("full")).parameters())


def test_identity_at_the_start(method: str, tiny_folder: Path) -> None:
    base = logits(tiny_model(tiny_folder))
    model = family_of(method).attach(tiny_model(tiny_folder), config_of(method))
    noise = 1e-4 if method == "olora" else 1e-5  # its basis is taken off the weights, and put back
    same = torch.allclose(logits(model)[:, -IDS.shape[1] :], base, rtol=noise, atol=noise)
    assert same == (not preset_of(method).not_identity)


def test_a_trained_adapter_says_something_else(method: str, tiny_folder: Path) -> None:
    base = logits(tiny_model(tiny_folder))
    tuned = logits(trained(tiny_folder, method))[:, -IDS.shape[1] :]
    assert not torch.allclose(tuned, base, rtol=1e-2, atol=1e-2)


# ---- on disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, torch.Tensor, Any]]:
    """Of every method asked for: the folder of a trained export, the logits here, those in a process that loads it."""
    calls = [item.callspec for item in request.session.items if isinstance(item, pytest.Function) and "[" in item.name]
    chosen = sorted({call.params["method"] for call in calls if "method" in call.params} & METHODS.keys())
    root = tmp_path_factory.mktemp("exports")
    expected, kinds = {}, {}
    for method in chosen:
        model = trained(tiny_folder, method)
        expected[method] = logits(model)
        family = family_of(method)
        family.export(model, root / method)
        ours = any(name.startswith(registration.PREFIX) for name in family.PEFT_TYPES)
        kinds.setdefault((ours, family.TRAINS == "adapter"), []).append(method)
    for (ours, adapter), members in kinds.items():
        code = ELSEWHERE.format(ours=ours, adapter=adapter)
        pairs = [str(path) for method in members for path in (root / method, root / f"{method}.safetensors")]
        done = subprocess.run(
            [sys.executable, "-c", code, str(tiny_folder), *pairs], capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-2000:]
    found = {method: load_file(root / f"{method}.safetensors")["logits"] for method in chosen}
    return {method: (root / method, expected[method], found[method]) for method in chosen}


def test_the_export_loads_elsewhere_with_equal_logits(method: str, tiny_folder: Path, elsewhere: Any) -> None:
    folder, expected, found = elsewhere[method]
    trains = family_of(method).TRAINS
    assert {path.name for path in folder.iterdir()} == FILES[trains]
    if trains == "adapter":
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(tiny_folder)
        assert settings["peft_type"] in family_of(method).PEFT_TYPES
    # of the largest logit, 8: fp32 itself is that far from fp64 here, and some methods save other factors of a product
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_export_is_the_same_again(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    digests = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        torch.manual_seed(3)  # what is drawn at the start follows the seed
        family_of(method).export(trained(tiny_folder, method), folder)
        digests.append({path.name: durable.sha256(path) for path in folder.iterdir()})
    assert digests[0] == digests[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_whole_model_is_written_in_the_format_it_is_computed_in(
    tiny_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=dtype)
    family_of("full").export(family_of("full").attach(base, config_of("full")), tmp_path)
    assert {item.dtype for item in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert str(tiny_folder) not in json.dumps(config), "no path of this machine leaves it"


def test_merging_equals_the_forward(method: str, tiny_folder: Path) -> None:
    if not preset_of(method).mergeable or family_of(method).TRAINS == "model":
        return
    model = trained(tiny_folder, method)
    expected = logits(model)
    assert torch.allclose(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-4)
