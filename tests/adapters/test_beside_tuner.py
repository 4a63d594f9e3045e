"""What all methods beside a frozen decoder have in common: nothing enters it, and every way to run it runs them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import GPT2Config, GPT2LMHeadModel, StaticCache

from sartor.adapters import family_of, preset_of
from sartor.backends.torch import TorchBackend
from sartor.data.pack import pack
from sartor.errors import RecipeError, Unsupported
from sartor.ops.forest_attention import separate
from sartor.plan import Choice, Plan

from .backbones import (
    BESIDE,
    VOCAB,
    attached,
    load,
    moved,
    packed_gradients,
    plain_gradients,
    save_backbone,
    segments,
    trainable,
)

IDS = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(2))
KEYS = ("lst", "lets")  # those that keep keys of their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(params=BESIDE)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def plan_of(make_plan: Callable[..., Plan], folder: Path, method: str, **changes: Any) -> Plan:
    return make_plan(folder, adapter=Choice(name=method), family=method, **changes)


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS, **given: Any) -> torch.Tensor:
    return model(input_ids=ids, **given).logits


def answers(model: Any, **given: Any) -> torch.Tensor:
    asked = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    return model.generate(**{**asked, **given}, max_new_tokens=8, do_sample=False, pad_token_id=0)


# ---- the backbone stays as it is -------------------------------------------------------------------------------------


def test_it_begins_as_the_base_to_the_bit_and_is_that_when_disabled(folder: Path, method: str) -> None:
    base = logits(load(folder))
    model = attached(folder, method)
    assert torch.equal(logits(model), base)
    assert not torch.allclose(logits(moved(model)), base, atol=1e-2)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model.unload()), base)


def test_no_gradient_enters_the_backbone(folder: Path, method: str) -> None:
    model = moved(attached(folder, method)).train()
    states: list[torch.Tensor] = []
    for layer in model.get_base_model().model.layers:
        layer.register_forward_hook(lambda part, given, output: states.append(output))
    model(input_ids=IDS).logits.square().sum().backward()
    assert states
    assert not any(state.requires_grad for state in states)
    assert all((item.grad is not None) == item.requires_grad for item in model.parameters())


def test_it_is_not_merged_nor_mixed(folder: Path, method: str) -> None:
    assert not preset_of(method).mergeable
    assert family_of(method).changes(None, folder).alone
    model = attached(folder, method)
    with pytest.raises(Unsupported, match="another adapter in each row"):
        model(input_ids=IDS, adapter_names=["default", "__base__"])
    with pytest.raises(Unsupported, match="merging"):
        model.merge_and_unload()


def test_a_model_that_keeps_its_layers_elsewhere_is_refused(method: str) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_inner=16, n_layer=2, n_head=2))
    with pytest.raises(RecipeError, match="GPT2LMHeadModel does not keep its layers and final norm as Llama does"):
        family_of(method).attach(model, family_of(method).Config())


# ---- every way to run a model ----------------------------------------------------------------------------------------


def test_generation_with_a_cache_is_an_argmax_loop_without(folder: Path, method: str) -> None:
    model, ids = moved(attached(folder, method), 0.5), IDS
    for _ in range(8):
        ids = torch.cat([ids, logits(model, ids, use_cache=False)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(answers(model), ids)
    assert not torch.equal(answers(load(folder)), ids)


def test_beams_are_the_same_with_and_without_a_cache(folder: Path, method: str) -> None:
    model = moved(attached(folder, method))
    assert torch.equal(answers(model, num_beams=3), answers(model, num_beams=3, use_cache=False))


def test_padding_on_the_left_changes_nothing(folder: Path, method: str) -> None:
    model = moved(attached(folder, method))
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), IDS], dim=1)
    mask = (torch.arange(12) >= 3).long().expand(2, -1)
    found = logits(model, padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    assert torch.allclose(found[:, 3:], logits(model), atol=1e-4)
    assert torch.equal(answers(model, input_ids=padded, attention_mask=mask)[:, 12:], answers(model)[:, 9:])


@pytest.mark.parametrize("method", KEYS)
def test_a_cache_of_fixed_size_is_refused(folder: Path, method: str) -> None:
    model = attached(folder, method)
    with pytest.raises(Unsupported, match="keys beside a StaticLayer"):
        logits(model, cache=StaticCache(config=model.config, max_cache_len=16), use_cache=True)


def test_a_saved_adapter_loads_under_another_name_beside_others(folder: Path, method: str, tmp_path: Path) -> None:
    model = moved(attached(folder, method))
    family_of(method).export(model, tmp_path)
    family_of(method).register()
    loaded = PeftModel.from_pretrained(load(folder), tmp_path, adapter_name="first")
    loaded.load_adapter(tmp_path, adapter_name="second")
    with torch.no_grad():
        for name, item in loaded.named_parameters():
            if ".second." in name:
                item.mul_(1.5)
    expected = logits(model)
    assert torch.equal(logits(loaded), expected)
    loaded.set_adapter("second")
    assert not torch.allclose(logits(loaded), expected, atol=1e-3)
    loaded.delete_adapter("second")
    loaded.set_adapter("first")
    assert torch.equal(logits(loaded), expected)


def test_a_deep_copy_is_a_model_of_its_own(folder: Path, method: str) -> None:
    model = moved(attached(folder, method))
    expected = logits(model)
    twin = copy.deepcopy(model)
    moved(model)
    assert torch.equal(logits(twin), expected)
    assert not torch.equal(logits(model), expected)


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
def test_packed_gradients_equal_plain_ones(
    folder: Path, method: str, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    """Through the hand-written layers, which share beginnings where that is right, and through transformers' own."""
    if plain:
        monkeypatch.setattr("sartor.backends.torch._no_kernels", lambda *given: "they are not wanted")
    rows = segments()
    backend = TorchBackend(plan_of(make_plan, folder, method), examples=pack(rows, micro_tokens=10**6))
    assert backend._policy.fused != plain
    assert backend._shares == (not plain and method not in KEYS)
    assert backend._frozen is None
    twin = attached(folder, method)
    family_of(method).HOOKS.calibrate(twin, family_of(method).Config(), pack(rows, micro_tokens=10**6))
    with torch.no_grad():
        for name, item in trainable(moved(twin)).items():
            backend._updates.masters[name].copy_(item)
    backend._refresh()
    found, wanted = packed_gradients(backend, rows), plain_gradients(twin, rows)
    assert found.keys() == wanted.keys() == trainable(twin).keys()
    for name, slope in wanted.items():
        assert torch.allclose(found[name], slope, rtol=1e-5, atol=1e-5 * float(slope.norm())), name


def test_fused_layers_keep_nothing_for_a_backward(folder: Path, method: str, make_plan: Callable[..., Plan]) -> None:
    backend = TorchBackend(plan_of(make_plan, folder, method))
    packed_gradients(backend, segments())
    (fusion,) = backend._kernels
    assert fusion.workspace._free == []
    assert fusion._run.round is None


def test_segments_that_share_beginnings_are_refused_where_keys_are_kept(
    folder: Path, make_plan: Callable[..., Plan]
) -> None:
    for method in BESIDE:
        backend = TorchBackend(plan_of(make_plan, folder, method))
        said = [word for word in backend.warnings if "computes no beginnings once for several" in word]
        assert bool(said) == (method in KEYS)


def test_segments_of_a_packed_batch_stay_apart(folder: Path, method: str, make_plan: Callable[..., Plan]) -> None:
    """The backend's own probe runs new adapters, which add nothing yet; here they do."""
    backend = TorchBackend(plan_of(make_plan, folder, method))
    with torch.no_grad():
        for item in backend._updates.masters.values():
            item.add_(0.1 * torch.randn(item.shape, generator=torch.Generator().manual_seed(3)))
    backend._refresh()
    backend._check_packing(12)
    assert backend._policy.packed
    tokens_T, positions_T = torch.arange(12) % VOCAB, torch.arange(12)
    ends = (torch.tensor([0, 12]), torch.tensor([0, 7, 12]))
    with torch.no_grad():
        whole_TD, apart_TD = (
            backend._policy._decode(tokens_T, positions_T, {"forest": separate(offsets_S1)})[0] for offsets_S1 in ends
        )
    assert torch.allclose(whole_TD[:7], apart_TD[:7], atol=1e-5)
    assert not torch.allclose(whole_TD[7:], apart_TD[7:], atol=1e-2)


def test_bf16_bases_are_read_in_fp32(folder: Path, method: str, make_plan: Callable[..., Plan]) -> None:
    backend = TorchBackend(
        plan_of(make_plan, folder, method, dtype="bfloat16"), examples=pack(segments(), micro_tokens=64)
    )
    found = packed_gradients(backend, segments())
    assert {item.dtype for item in backend._updates.masters.values()} == {torch.float32}
    assert all(torch.isfinite(slope).all() for slope in found.values())
