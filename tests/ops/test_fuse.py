"""Fused layers against transformers and PEFT as they are, family by family; what is not understood is left alone.

Shapes: T tokens · D width of the stream.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from sartor.adapters import lora
from sartor.ops import attention, fuse, product
from sartor.ops.forest_attention import Native, Plain, separate
from sartor.ops.fuse import RECOMPUTE, Fusion
from sartor.ops.joint_linear import JointLinear
from sartor.ops.lora_linear import AugmentedLoraLinear
from sartor.ops.stream_norm import StreamNorm

from .conftest import relative
from .families import (
    FAMILIES,
    OFFSETS,
    POSITIONS_T,
    SIZES,
    SLOPES_TD,
    TOKENS_T,
    decode,
    fused,
    gradients_of,
    joined,
    model_of,
    ours,
    plain,
    run,
    same_bits,
    stock,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_fp32_outputs_and_gradients_are_transformers_and_pefts(family: str) -> None:
    model = ours(family)
    fusion = fused(model)
    assert fusion.problem == ""
    wanted_TD, wanted = plain(stock(family))
    found_TD, found = run(model)
    assert relative(found_TD, wanted_TD) < 1e-5
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 1e-5, name


@pytest.mark.parametrize("r", [4, 3, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_bf16_gradients_point_where_fp32_ones_do(family: str, r: int) -> None:
    model = ours(family, torch.bfloat16, r=r)
    assert fused(model, dtype=torch.bfloat16).problem == ""
    _, wanted = plain(stock(family, rounded=True, r=r))
    _, found = run(model)
    assert float(F.cosine_similarity(joined(found), joined(wanted), dim=0)) > 0.999


@pytest.mark.parametrize("family", ["Llama", "Gemma3"])
def test_a_base_that_is_trained_whole_has_transformers_gradients(family: str) -> None:
    model = model_of(family, attend=attention.NAME)
    assert fused(model).problem == ""
    wanted_TD, wanted = plain(model_of(family))
    found_TD, found = run(model)
    assert relative(found_TD, wanted_TD) < 1e-5
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 1e-5, name


@pytest.mark.usefixtures("amd")
@pytest.mark.parametrize("family", ["Llama", "Gemma3"])
def test_by_our_own_products_it_has_them_too(family: str) -> None:
    assert isinstance(product.products(torch.float32), product.Native)
    test_a_base_that_is_trained_whole_has_transformers_gradients(family)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Llama", "Gemma3"])
@pytest.mark.parametrize("recompute", ["mlp", "layer"])
def test_what_is_computed_again_gives_the_same_bits(family: str, recompute: str, dtype: torch.dtype) -> None:
    results = []
    for policy in ("none", recompute):
        model = ours(family, dtype)
        assert fused(model, recompute=policy, dtype=dtype).problem == ""
        results.append(run(model))
    assert same_bits(*results)


def test_what_is_computed_again_is_not_saved() -> None:
    saved = []
    for policy in RECOMPUTE:
        model = ours("Llama")
        fusion = fused(model, recompute=policy)
        run(model)
        saved.append(sum(buffers.num_bytes for buffers in fusion.workspace._free))
    assert saved == sorted(saved, reverse=True)
    assert saved[-1] < saved[0] / 4


@pytest.mark.parametrize("recompute", ["none", "layer"])
def test_rows_that_are_wanted_are_those_of_the_whole(recompute: str) -> None:
    rows = torch.tensor([3, 19, 20, 64, 69])
    model = ours("Gemma3")
    assert fused(model, recompute=recompute).problem == ""
    some_ND, found = run(model, rows=rows)
    whole_TD = decode(model, TOKENS_T, POSITIONS_T, forest=separate(OFFSETS))
    (whole_TD[rows] * SLOPES_TD[rows]).sum().backward()
    assert relative(some_ND, whole_TD.detach()[rows]) < 1e-6
    assert relative(joined(found), joined(gradients_of(model))) < 1e-6


@pytest.mark.parametrize("top", [1, 2])
def test_the_backward_ends_at_the_lowest_adapter(top: int) -> None:
    model = ours("Llama")
    fusion = fused(model)
    _, wanted = run(model)
    for name, weight in model.named_parameters():
        if "lora_" in name and int(name.split("layers.")[1].split(".")[0]) < 3 - top:
            weight.requires_grad_(False)
    again = ours("Llama")
    for (_, weight), (_, like) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        weight.requires_grad_(like.requires_grad)
    fusion = fused(again)
    _, found = run(again)
    assert found.keys() < wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert len(fusion.workspace._free) == 1, "the round came to its end"


@pytest.mark.usefixtures("without_native")
def test_without_kernels_the_twins_give_the_same() -> None:
    model = ours("Gemma3")
    fusion = fused(model)
    assert fusion.problem == ""
    assert isinstance(fusion._blocks[0].tools.attention, Plain)  # type: ignore[union-attr]
    wanted_TD, wanted = plain(stock("Gemma3"))
    found_TD, found = run(model)
    assert relative(found_TD, wanted_TD) < 1e-5
    assert relative(joined(found), joined(wanted)) < 1e-5


def test_with_kernels_the_kernels_are_used() -> None:
    fusion = fused(ours("Llama"))
    assert isinstance(fusion._blocks[0].tools.attention, Native)
    assert type(fusion._blocks[0].tools.pointwise).__name__ == "Native"


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_second_forward_leaves_what_the_first_ones_backward_needs() -> None:
    model = ours("Qwen3")
    fusion = fused(model)
    slopes = (SLOPES_TD, SLOPES_TD.flip(0))
    apart = []
    for tokens_T, slopes_TD in zip((TOKENS_T, TOKENS_T.flip(0)), slopes, strict=True):
        (decode(model, tokens_T, POSITIONS_T, forest=separate(OFFSETS)) * slopes_TD).sum().backward()
        apart.append(gradients_of(model))
    first_TD, second_TD = (
        decode(model, tokens_T, POSITIONS_T, forest=separate(OFFSETS)) for tokens_T in (TOKENS_T, TOKENS_T.flip(0))
    )
    with torch.no_grad():
        decode(model, TOKENS_T.roll(1), POSITIONS_T, forest=separate(OFFSETS))
    for hidden_TD, slopes_TD, wanted in zip((first_TD, second_TD), slopes, apart, strict=True):
        (hidden_TD * slopes_TD).sum().backward()
        assert torch.equal(joined(gradients_of(model)), joined(wanted))
    assert len(fusion.workspace._free) == 2


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("rows", [None, torch.tensor([3, 19, 20, 64, 69])], ids=["all rows", "wanted rows"])
@pytest.mark.parametrize("family", ["Llama", "Gemma3"])
def test_what_stands_in_old_buffers_is_never_read(family: str, rows: torch.Tensor | None, recompute: str) -> None:
    model = ours(family)
    fusion = fused(model, recompute=recompute)
    more = {} if rows is None else {"rows": rows}
    before = run(model, **more)
    for buffers in (fusion.workspace._scratch, *fusion.workspace._free):
        for buffer in buffers._buffers.values():
            buffer.fill_(float("nan"))
    assert same_bits(run(model, **more), before)


def test_an_update_of_the_masters_is_seen_after_a_refresh() -> None:
    model = ours("Llama")
    fusion = fused(model)
    before, _ = run(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(2)
    assert torch.equal(run(model)[0], before)
    fusion.refresh()
    with torch.no_grad():
        wanted = stock("Llama")
        for name, weight in wanted.named_parameters():
            if "lora_B" in name:
                weight.mul_(2)
    assert relative(run(model)[0], plain(wanted)[0]) < 1e-5


# ---- PEFT ------------------------------------------------------------------------------------------------------------


def test_all_names_are_what_they_were() -> None:
    model = ours("Llama")
    names = [sorted(get_peft_model_state_dict(model)), sorted(model.state_dict()), sorted(dict(model.named_modules()))]
    trained = [name for name, item in model.named_parameters() if item.requires_grad]
    assert fused(model).problem == ""
    assert sorted(get_peft_model_state_dict(model)) == names[0]
    assert sorted(model.state_dict()) == names[1]
    assert sorted(dict(model.named_modules())) == names[2]
    assert [name for name, item in model.named_parameters() if item.requires_grad] == trained


@pytest.mark.parametrize("switch", ["disabled", "merged"])
def test_an_adapter_that_is_switched_off_or_merged_takes_the_plain_layer(switch: str) -> None:
    model = ours("Llama")
    assert fused(model).problem == ""
    adapted_TD, _ = run(model)
    segments = {"forest": separate(OFFSETS), "cu_seq_lens_q": OFFSETS}
    if switch == "merged":
        model.merge_adapter()
    with torch.no_grad(), model.disable_adapter() if switch == "disabled" else nullcontext():
        found_TD = decode(model, TOKENS_T, POSITIONS_T, **segments)
    if switch == "disabled":
        base_TD, _ = plain(model_of("Llama"))
        assert relative(found_TD, base_TD) < 1e-5
        assert relative(found_TD, adapted_TD) > 0.01
    else:
        assert relative(found_TD, adapted_TD) < 1e-5
        model.unmerge_adapter()
    assert relative(run(model)[0], adapted_TD) < 1e-6


def test_a_call_without_a_forest_takes_the_plain_layer() -> None:
    model = ours("Llama")
    assert fused(model).problem == ""
    with torch.no_grad():
        found_TD = decode(model, TOKENS_T, POSITIONS_T, cu_seq_lens_q=OFFSETS)
    assert relative(found_TD, run(model)[0]) < 1e-5


# ---- what is left alone ----------------------------------------------------------------------------------------------


def untouched(model: Any, change: Callable[[], Fusion]) -> str:
    """The problem that a fusion gives, after which the model must compute as before."""
    segments = {"cu_seq_lens_q": OFFSETS}
    with torch.no_grad():
        before = decode(model, TOKENS_T, POSITIONS_T, **segments)
        problem = change().problem
        base = model.get_base_model()
        assert not any(isinstance(part, fuse.FusedLayer) for part in base.modules())
        assert relative(decode(model, TOKENS_T, POSITIONS_T, **segments), before) < 1e-6
    return problem


def test_a_layer_with_a_part_that_is_not_known_is_left_alone() -> None:
    model = ours("Llama")
    model.get_base_model().model.layers[1].add_module("memory", torch.nn.Linear(3, 3))
    assert "a layer with a part named memory" in untouched(model, lambda: fused(model))


@pytest.mark.parametrize(
    ("family", "changes", "is_ours"),
    [
        ("Granite", {"residual_multiplier": 0.5}, False),  # a factor on what is added to the stream
        ("SmolLM3", {"num_hidden_layers": 4, "scale": 2.0}, True),  # its fourth layer does not rotate
        ("Glm", {"scale": 1.0}, False),  # rotates other pairs
        ("Ernie4_5", {"scale": 1.0}, False),
        ("Helium", {"scale": 1.0}, False),
    ],
)
def test_a_family_that_computes_something_else_is_left_alone_or_right(
    family: str, changes: dict[str, Any], is_ours: bool
) -> None:
    model = ours(family, **changes)
    assert (fused(model).problem == "") == is_ours
    if is_ours:
        assert relative(run(model)[0], plain(stock(family, **changes))[0]) < 1e-5


def test_a_residual_multiplier_is_noticed_and_said() -> None:
    model = ours("Granite", residual_multiplier=0.5)
    assert "layer 0 computes something else" in untouched(model, lambda: fused(model))


@pytest.mark.parametrize(
    ("lora_settings", "why"),
    [({"lora_dropout": 0.1}, "dropout"), ({"use_dora": True}, "a variant (DoRA and the like)")],
)
def test_an_adapter_beyond_lora_is_left_alone(lora_settings: dict[str, Any], why: str) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **lora_settings)
    config._register_custom_module({nn.Linear: AugmentedLoraLinear})
    model = get_peft_model(model_of("Llama", attend=attention.NAME), config).eval()
    assert untouched(model, lambda: fused(model)) == f"a LoRA layer with {why}"


@pytest.mark.parametrize("family", ["GPT2", "StableLm", "Gemma2", "GPTNeoX", "Olmo2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_another_build_is_left_alone_not_broken(family: str, dtype: torch.dtype) -> None:
    """No list of layers; segments that do not reach its attention; a soft cap; norms that take no fp32 stream."""
    import transformers

    sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
    if family == "GPT2":
        sizes = {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 2}
    kind: Any = operator.attrgetter(f"{family}Config")(transformers)
    attention.register()
    model = transformers.AutoModelForCausalLM.from_config(
        kind(**sizes), dtype=dtype, attn_implementation=attention.NAME
    )
    assert fused(model, dtype=dtype).problem != ""


def test_a_window_that_the_probe_does_not_fit_in_is_refused() -> None:
    """The plain path, which the probe takes, has no windows within a segment."""
    model = ours("Mistral", sliding_window=4)
    assert "a sliding window of 4" in fused(model).problem
    assert not any(isinstance(part, fuse.FusedLayer) for part in model.modules())


@pytest.mark.parametrize("number", [1, 2])
def test_a_planted_fault_trips_the_verification(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The norm of one block has a wrong scale."""
    made: list[StreamNorm] = []
    right = StreamNorm.refresh

    def wrong(norm: StreamNorm) -> None:
        right(norm)
        made.append(norm)
        if len(made) == number + 2:
            norm.scale_D *= 1.1

    monkeypatch.setattr(StreamNorm, "refresh", wrong)
    model = ours("Llama")
    assert "layer 1 computes something else" in untouched(model, lambda: fused(model))


@pytest.mark.parametrize("fault", ["", "scale", "order"])
def test_a_fault_in_the_up_projection_is_seen_though_new_ones_are_zero(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    right = JointLinear.refresh

    def wrong(joint: JointLinear) -> None:
        right(joint)
        up_NR = joint._joint_NKR[:, joint.num_inputs :]
        up_NR.copy_(up_NR * 2 if fault == "scale" else up_NR.flip(1))

    if fault:
        monkeypatch.setattr(JointLinear, "refresh", wrong)
    model = lora.attach(model_of("Llama", attend=attention.NAME), lora.Config(r=4))
    state = torch.get_rng_state()
    fusion = fused(model)
    assert ("computes something else" in fusion.problem) is bool(fault)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(item.any() for name, item in model.named_parameters() if "lora_B" in name)
    joints = [part for block in fusion._blocks for part in block.parts if isinstance(part, JointLinear)]
    assert fault or not any(joint._joint_NKR[:, joint.num_inputs :].any() for joint in joints)


def test_a_new_adapter_that_is_not_trained_changes_nothing() -> None:
    """The copies of its up-projections must not keep what they held while the layers were compared."""
    model = lora.attach(model_of("Llama", attend=attention.NAME), lora.Config(r=4)).requires_grad_(False)
    assert fused(model).problem == ""
    with torch.no_grad():
        found_TD = decode(model, TOKENS_T, POSITIONS_T, forest=separate(OFFSETS))
        alone = [model_of("Llama").model(input_ids=TOKENS_T[None, a:b]) for a, b in pairwise(OFFSETS.tolist())]
    assert relative(found_TD, torch.cat([output.last_hidden_state[0] for output in alone])) < 1e-5


def test_what_another_process_cannot_this_one_does_not() -> None:
    model = ours("Llama")
    asked: list[str] = []

    def agree(problem: str) -> str:
        asked.append(problem)
        return "rank 1: no compiler"

    assert untouched(model, lambda: fused(model, agree=agree)) == "rank 1: no compiler"
    assert asked == [""]


def test_all_layers_are_fused_or_none() -> None:
    model = ours("Llama")
    model.get_base_model().model.layers[2].add_module("memory", torch.nn.Linear(3, 3))
    assert untouched(model, lambda: fused(model))


def _names(layers: Sequence[Any]) -> list[str]:
    return [type(layer).__name__ for layer in layers]


def test_fused_layers_stand_where_the_plain_ones_stood() -> None:
    model = ours("Llama")
    assert fused(model).problem == ""
    layers = model.get_base_model().model.layers
    assert _names(layers) == ["FusedLayer"] * 3
    assert [name for name, _ in layers[0].named_children()] == [
        "self_attn", "mlp", "input_layernorm", "post_attention_layernorm",
    ]  # fmt: skip
