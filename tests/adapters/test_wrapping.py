"""What all adapters that wrap a module have in common: switching, mixed batches, other bases, gradients, changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    T5Config,
    T5ForConditionalGeneration,
)

import sartor.peft  # noqa: F401 - PEFT then loads what is exported
from sartor.adapters import family_of, preset_of
from sartor.adapters.changes import Bottleneck, Changes, Weight
from sartor.adapters.wrapping.layer import ACTIVATIONS, Wrapping
from sartor.adapters.wrapping.places import targets
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Segment, pack
from sartor.errors import RecipeError
from sartor.objectives import sft
from sartor.ops import quantised
from sartor.ops.quantised_linear import QuantisedLinear
from sartor.ops.workspace import Buffers
from sartor.plan import Choice, Plan

METHODS = ("bottleneck", "pfeiffer", "parallel", "compacter", "compacter_plus", "adamix", "krona_b", "krona_b_res")
SMALL = {"size": 8}
VOCAB = 97
IDS = torch.tensor([[1, 5, 9, 40, 30], [7, 3, 2, 61, 12], [8, 8, 4, 90, 11]])
SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, pad_token_id=0)
T5 = T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
OTHERS = {
    "bert": BertConfig(**SIZES, intermediate_size=48),
    "deberta": DebertaV2Config(**SIZES, intermediate_size=48),
    "distilbert": DistilBertConfig(vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=48),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "qwen3": Qwen3Config(**SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=8),
    "t5": T5,
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def base_model(dtype: torch.dtype = torch.float32) -> Any:
    """A small Llama with weights that say something."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(LLAMA)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    return model.to(dtype)


def config_of(method: str, **settings: Any) -> Any:
    return family_of(method).Config(**{**preset_of(method).settings, **settings})


def attached(method: str, model: Any | None = None, **settings: Any) -> Any:
    return family_of(method).attach(model or base_model(), config_of(method, **settings))


@torch.no_grad()
def wake(model: Any, seed: int = 11) -> Any:
    """As after training, every trainable number has moved."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return model


def trained(method: str, seed: int = 11) -> Any:
    return wake(attached(method), seed)


@torch.no_grad()
def logits(model: Any, **given: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS, **given).logits


# ---- PEFT ------------------------------------------------------------------------------------------------------------


def test_switched_off_it_is_the_base_bit_by_bit(method: str) -> None:
    model, base = trained(method), logits(base_model())
    assert not torch.allclose(logits(model), base, rtol=1e-2, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model.unload()), base)


def test_two_adapters_switch_and_are_deleted(method: str) -> None:
    model = trained(method)
    first = logits(model)
    model.add_adapter("other", model.peft_config["default"])
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    assert {name.split(".")[-2 if ".adapter_rule" not in name else -1] for name in trainable(model)} == {"other"}
    wake(model, seed=12)
    second = logits(model)
    assert not torch.allclose(first, second, rtol=1e-2, atol=1e-2)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.delete_adapter("default")
    model.set_adapter("other")
    assert torch.equal(logits(model), second)
    assert not [name for name in model.state_dict() if "default" in name]


def trainable(model: Any) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_what_is_switched_off_or_for_inference_is_not_trained(method: str, tmp_path: Path) -> None:
    model = trained(method)
    names = trainable(model)
    assert names
    with model.disable_adapter():
        assert trainable(model) == []
    assert trainable(model) == names
    model.base_model.set_requires_grad("default", requires_grad=False)
    assert trainable(model) == []
    family_of(method).export(model, tmp_path)
    assert trainable(PeftModel.from_pretrained(base_model(), tmp_path)) == []


def test_rows_of_a_mixed_batch_have_their_own_adapters(method: str) -> None:
    model = trained(method)
    first, base = logits(model), logits(base_model())
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    second = logits(wake(model, seed=12))
    mixed = logits(model, adapter_names=["default", "__base__", "other"])
    for row, wanted in enumerate((first, base, second)):
        assert torch.allclose(mixed[row], wanted[row], rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model), second)
    with pytest.raises(ValueError, match="othre"):
        logits(model, adapter_names=["default", "othre", "other"])
    with pytest.raises(ValueError, match="names 2 rows"):
        logits(model, adapter_names=["default", "other"])
    with pytest.raises(ValueError, match="inference"):
        model.train()(input_ids=IDS, adapter_names=["default", "default", "default"])


@pytest.mark.parametrize(("kind", "family"), [("opt", "bottleneck"), ("bert", "bitfit")])
def test_rows_of_a_mixed_batch_may_be_tokens_or_texts(kind: str, family: str) -> None:
    """OPT puts all tokens of a batch one below the other; BERT's pooler has one row a text."""
    torch.manual_seed(5)
    base = AutoModel.from_config(OTHERS[kind]).eval()
    with torch.no_grad():
        untuned = base(input_ids=IDS)
        model = wake(attached(family, base)).eval()
        tuned, mixed = (
            model(input_ids=IDS, adapter_names=names) for names in (None, ["default", "__base__", "default"])
        )
    for name, found in mixed.items():
        if isinstance(found, torch.Tensor):
            wanted = torch.stack([tuned[name][0], untuned[name][1], tuned[name][2]])
            assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(tuned[name], untuned[name], rtol=1e-2, atol=1e-2)


def test_an_export_loads_under_any_name_and_without_memory_for_what_was_drawn(method: str, tmp_path: Path) -> None:
    model = trained(method)
    wanted = logits(model)
    family_of(method).export(model, tmp_path)
    for settings in ({"adapter_name": "mine"}, {"low_cpu_mem_usage": True}):
        assert torch.allclose(logits(PeftModel.from_pretrained(base_model(), tmp_path, **settings)), wanted, atol=1e-5)


def test_merging_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        trained(method).merge_and_unload()


def test_a_second_adapter_elsewhere_is_refused() -> None:
    model, other = attached("parallel"), attached("bottleneck")
    with pytest.raises(ValueError, match="same places"):
        model.add_adapter("other", other.peft_config["default"])


# ---- what it computes ------------------------------------------------------------------------------------------------


def apply(base: Any, changes: Changes) -> Any:
    """A base that gives what changes make of it, straight from their definition."""
    for name, items in changes.modules.items():
        for item in items:
            module = base.get_submodule(name)
            if isinstance(item, Weight):
                module.weight.data = item.weight
            else:
                assert isinstance(item, Bottleneck)
                module.register_forward_hook(partial(bottleneck, item))
    return base


def bottleneck(item: Bottleneck, module: Any, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
    z = given[0] if item.reads == "input" else y
    low = F.linear(z, item.down_MK, item.down_bias_M)
    low = low if item.activation == "none" else ACTIVATIONS[item.activation](low)
    return y + item.scale * F.linear(low, item.up_NM, item.up_bias_N)


def test_changes_give_what_the_forward_gives(method: str, tmp_path: Path) -> None:
    model = trained(method)
    family_of(method).export(model, tmp_path)
    changes = family_of(method).changes(base_model(), tmp_path)
    assert changes.alone == ""
    assert torch.allclose(logits(apply(base_model(), changes)), logits(model), rtol=1e-5, atol=1e-5)


def test_generation_with_a_cache_is_that_without(method: str) -> None:
    model = trained(method).eval()
    found = model.generate(input_ids=IDS[:1], max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
    ids = IDS[:1]
    for _ in range(8):
        ids = torch.cat((ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(found, ids)


def test_on_a_bf16_base_adapters_are_fp32_and_the_output_is_bf16(method: str) -> None:
    model = wake(attached(method, base_model(torch.bfloat16)))
    seen = []
    for module in model.modules():
        if isinstance(module, Wrapping):
            module.register_forward_hook(lambda part, given, output: seen.append(output.dtype))
    model.train()(input_ids=IDS).logits.float().square().sum().backward()
    assert set(seen) == {torch.bfloat16}
    grads = {name: item.grad for name, item in model.named_parameters() if item.requires_grad}
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads.values())


@pytest.mark.parametrize("method", ["bottleneck", "parallel", "compacter", "krona_b"])
def test_on_a_quantised_base_it_is_what_it_is_on_its_numbers(method: str) -> None:
    plain, packed = base_model(), base_model()
    for path, part in list(packed.named_modules()):
        if path.endswith(("o_proj", "down_proj")):
            layer = QuantisedLinear(quantised.pack(part.weight.detach(), "nf4"), None, torch.float32, Buffers(0))
            packed.get_submodule(path.rpartition(".")[0]).add_module(path.rpartition(".")[2], layer)
            plain.get_submodule(path).weight.data = layer.weight.detach()
    found = []
    for base in (plain, packed):
        torch.manual_seed(1)
        model = wake(attached(method, base)).train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        found.append([item.grad for item in model.parameters() if item.grad is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-6) for one, two in zip(*found, strict=True))


def test_recomputing_layers_gives_the_same_gradients(method: str) -> None:
    found = []
    for recompute in (False, True):
        model = wake(attached(method)).train()
        if recompute:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(2)
        model(input_ids=IDS, labels=IDS).loss.backward()
        found.append([item.grad for item in model.parameters() if item.grad is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(one, two, rtol=1e-5, atol=1e-7) for one, two in zip(*found, strict=True))


def test_a_small_batch_is_learned(method: str) -> None:
    """Also from starts that add next to nothing."""
    model = attached(method).train()
    rate = 0.01 if preset_of(method).learning_rate < 4 else 0.03
    optimizer = torch.optim.Adam([item for item in model.parameters() if item.requires_grad], lr=rate)
    torch.manual_seed(3)
    losses = []
    for _ in range(30):
        loss = model(input_ids=IDS[:, :3], labels=IDS[:, :3]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def segments() -> list[Segment]:
    draw = torch.Generator().manual_seed(8)
    made = []
    for length in (9, 14, 6, 21):
        ids = torch.randint(49152, (length + 1,), generator=draw).tolist()
        weights = (0.0, 0.0, *([1.0] * (length - 2)))
        made.append(Segment(row=f"row {length}", tokens=tuple(ids[:-1]), targets=tuple(ids[1:]), weights=weights))
    return made


@pytest.mark.parametrize("method", [name for name in METHODS if name != "adamix"])
def test_packed_gradients_equal_plain_ones(tiny_folder: Path, make_plan: Callable[..., Plan], method: str) -> None:
    """AdaMix draws a route in each forward: `test_adamix.py` says what its gradients are."""
    settings = config_of(method).model_dump()
    backend = TorchBackend(make_plan(tiny_folder, adapter=Choice(name=method, settings=settings), family=method))
    assert not [warning for warning in backend.warnings if "packing is off" in warning]
    wake(backend._model)
    backend._refresh()
    batches = pack(segments(), micro_tokens=64)
    weight = sum(sft.weight(batch) for batch in batches)
    for batch in batches:
        backend.forward_backward(batch, sft, sft.Config(), weight)
    plain = attached(method, AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)).train()
    wanted = {name: item for name, item in plain.named_parameters() if item.requires_grad}
    assert wanted.keys() == backend._updates.masters.keys()
    for name, item in wanted.items():
        item.data.copy_(backend._updates.masters[name])
    for item in segments():
        losses = F.cross_entropy(
            plain(input_ids=torch.tensor([item.tokens])).logits[0], torch.tensor(item.targets), reduction="none"
        )
        ((losses * torch.tensor(item.weights)).sum() / weight).backward()
    for name, item in wanted.items():
        found = backend._updates.masters[name].grad
        assert float((found - item.grad).norm() / item.grad.norm()) < 1e-5, name


# ---- other bases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("family", ["bottleneck", "compacter", "adamix", "parallel"])
def test_other_bases(kind: str, family: str) -> None:
    torch.manual_seed(5)
    base = T5ForConditionalGeneration(T5) if kind == "t5" else AutoModel.from_config(OTHERS[kind])
    given = {"input_ids": IDS} | ({"decoder_input_ids": IDS.flip(1)} if kind == "t5" else {})
    if family == "parallel" and kind in ("bert", "deberta", "opt"):
        with pytest.raises(RecipeError, match="to stand beside"):
            attached(family, base)
        return
    with torch.no_grad():
        wanted = base.eval()(**given)[0]
    model = attached(family, base).eval()
    with torch.no_grad():
        assert torch.allclose(model(**given)[0], wanted, rtol=1e-4, atol=1e-4)
    wake(model).train()(**given)[0].square().sum().backward()
    without = [name for name, item in model.named_parameters() if item.requires_grad and item.grad is None]
    assert without == []


@pytest.mark.parametrize("family", ["bottleneck", "compacter", "adamix"])
def test_the_heads_of_a_classifier_are_trained_and_exported(family: str, tmp_path: Path) -> None:
    def base() -> Any:
        torch.manual_seed(5)
        return AutoModelForSequenceClassification.from_config(OTHERS["bert"])

    model = attached(family, base())
    assert any("classifier" in name for name in trainable(model))
    wanted = logits(wake(model))
    with pytest.raises(TypeError, match="Mixed batching is only supported"):  # PEFT refuses a head such as a pooler
        logits(model, adapter_names=["default", "__base__", "default"])
    family_of(family).export(model, tmp_path)
    assert torch.allclose(logits(PeftModel.from_pretrained(base(), tmp_path)), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MixtralConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, num_local_experts=2),
        Qwen3MoeConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, num_experts=2, mlp_only_layers=[0]),
    ],
    ids=["experts", "experts in some layers"],
)
def test_a_base_whose_sublayers_are_not_all_known_is_refused(config: Any) -> None:
    with torch.device("meta"), pytest.raises(RecipeError, match="ForCausalLM end is not known"):
        targets(AutoModelForCausalLM.from_config(config), "both", norms=False)
