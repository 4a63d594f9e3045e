"""LoRA's relatives: their arithmetic, and that what is saved is plain LoRA on the base as it was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from sartor.adapters import lora, refuse_disguise, starts
from sartor.adapters.changes import LowRank, Scale, Weight
from sartor.backends.fsdp import Together, leave
from sartor.backends.torch import TorchBackend
from sartor.base import load_base
from sartor.data.pack import Segment, pack, segment
from sartor.errors import ModelError, RecipeError
from sartor.hub import Shape
from sartor.objectives import sft
from sartor.ops.quantised import pack as pack_four
from sartor.plan import Adam, Plan

MakePlan = Callable[..., Plan]
IDS = torch.tensor([[1, 5, 9, 200, 3000]])
LAYER = "model.layers.1.mlp.down_proj"
#: Llama-3.2-3B, on which PEFT publishes trainable parameters (method_comparison/MetaMathQA/results).
LLAMA_3B = Shape(
    num_layers=28, hidden=3072, inner=8192, num_heads=24, num_kv_heads=8, head_dim=128, vocab=128256, tied=True,
    context=131072,
)  # fmt: skip


def config_of(method: str, **settings: Any) -> lora.Config:
    return lora.Config(**{**lora.PRESETS[method].settings, **settings})


def base_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def attached(folder: Path, method: str, *, moved: bool = False, **settings: Any) -> Any:
    """A new adapter; with `moved`, as after training."""
    model = lora.attach(base_model(folder), config_of(method, **settings))
    torch.manual_seed(4)
    for parameter in model.parameters():
        if moved and parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def segments(count: int = 6) -> list[Segment]:
    draw = torch.Generator().manual_seed(9)
    made = []
    for row in range(count):
        ids = torch.randint(5, 2000, (20 + row,), generator=draw).tolist()
        made.append(segment(f"row {row}", ids, [0.0, 0.0, *[1.0] * (len(ids) - 2)]))
    return made


def backend_of(plan: Plan) -> TorchBackend:
    return TorchBackend(plan, examples=pack(segments(), micro_tokens=64))


def train(backend: TorchBackend, num_steps: int) -> list[float]:
    """Losses of so many steps, always of the same examples."""
    losses = []
    for _ in range(num_steps):
        batches = pack(segments(), micro_tokens=64)
        weight = sum(sft.weight(batch) for batch in batches)
        losses.append(sum(backend.forward_backward(batch, sft, sft.Config(), weight).loss for batch in batches))
        backend.step(Adam(learning_rate=5e-3))
    return losses


def plan_of(make_plan: MakePlan, folder: Path, method: str, **settings: Any) -> Plan:
    """On the base that the method wants."""
    config = config_of(method, r=4, **settings).model_dump(mode="json")
    plan = make_plan(folder, adapter={"name": method, "settings": config})
    held = lora.PRESETS[method].quantize or "none"
    return plan.model_copy(update={"model": plan.model.model_copy(update={"quantize": held})})


# ---- settings --------------------------------------------------------------------------------------------------------


def test_published_counts() -> None:
    asked = {"r": 32, "targets": ("q_proj", "v_proj")}
    assert lora.count(LLAMA_3B, config_of("lora", **asked)) == 9_175_040
    assert lora.count(LLAMA_3B, config_of("dora", **asked)) == 9_289_728
    assert lora.count(LLAMA_3B, config_of("rslora", **{**asked, "r": 64})) == 18_350_080


@pytest.mark.parametrize(
    ("method", "settings", "scale"),
    [
        ("lora", {"r": 16}, 2.0),
        ("lora", {"r": 8, "alpha": 4}, 0.5),
        ("rslora", {"r": 16}, 2.0),
        ("rslora", {"r": 4, "alpha": 6}, 3.0),
    ],
)
def test_the_scale(tiny_folder: Path, method: str, settings: dict[str, Any], scale: float) -> None:
    layer = attached(tiny_folder, method, **settings).get_base_model().get_submodule(LAYER)
    assert layer.scaling["default"] == pytest.approx(scale)


def test_lora_plus_learns_b_faster(tiny_folder: Path) -> None:
    config = config_of("lora_plus")
    model = attached(tiny_folder, "lora_plus")
    rates = lora.HOOKS.rates(model, config)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(rates) == {name for name in trained if "lora_B" in name}
    assert set(rates.values()) == {16.0}
    assert lora.HOOKS.rates(attached(tiny_folder, "lora"), config_of("lora")) == {}


def test_a_setting_that_makes_another_method_is_asked_for_by_its_name() -> None:
    refuse_disguise("lora", {"r": 4, "use_dora": False, "use_rslora": True, "lr_ratio": 8})
    refuse_disguise("dora", {"use_dora": True, "lr_ratio": 16})
    with pytest.raises(RecipeError, match=r"tune\.adapter\.use_dora` is True, which is another method") as caught:
        refuse_disguise("lora", {"use_dora": True})
    assert "choose dora" in caught.value.hint
    with pytest.raises(RecipeError, match=r"tune\.adapter\.init` is 'pissa', which is another method than qlora"):
        refuse_disguise("qlora", {"init": "pissa"})


def test_dora_keeps_its_base() -> None:
    with pytest.raises(ValidationError, match="DoRA cannot begin as pissa"):
        lora.Config(use_dora=True, init="pissa")
    assert lora.Config(use_dora=True, init="eva").use_dora


def test_a_start_at_more_directions_than_there_are_is_refused() -> None:
    narrow = LLAMA_3B.model_copy(update={"num_kv_heads": 1, "head_dim": 8})
    lora.count(narrow, config_of("lora", r=16))
    with pytest.raises(RecipeError, match="a layer to adapt has 8 inputs or outputs") as caught:
        lora.count(narrow, config_of("pissa", r=16))
    assert "at most 8 for pissa" in caught.value.hint


# ---- starts that move the base ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pissa", "olora", "loftq"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_what_is_saved_is_plain_lora_on_the_base_as_it_was(
    tiny_folder: Path, tmp_path: Path, method: str, use_rslora: bool
) -> None:
    model = attached(tiny_folder, method, moved=True, r=4, use_rslora=use_rslora)
    expected = logits(model)
    lora.export(model, tmp_path)
    assert torch.equal(logits(model), expected), "saving changes nothing"
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["init_lora_weights"] is True
    assert settings["r"] == 8
    plain = PeftModel.from_pretrained(base_model(tiny_folder), tmp_path)
    assert (logits(plain) - expected).norm() < 1e-5 * expected.norm()
    with plain.disable_adapter():
        assert torch.equal(logits(plain), logits(base_model(tiny_folder)))
    with model.disable_adapter():
        assert not torch.allclose(logits(model), logits(base_model(tiny_folder)), atol=1e-2), "why it is converted"
    changes = lora.changes(base_model(tiny_folder), tmp_path)
    assert all(isinstance(change, LowRank) for own in changes.modules.values() for change in own)


def test_a_small_change_is_saved_as_small_matrices(tiny_folder: Path) -> None:
    """Though B A and B₀ A₀ are large: in bf16 their difference would be noise."""
    model = attached(tiny_folder, "pissa", r=4)
    layer = model.get_base_model().get_submodule(LAYER)
    whole = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).norm()
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(1.001)
    down, up = layer.change()
    assert (down.norm() * up.norm()) < 0.01 * whole
    torch.testing.assert_close((up @ down).norm(), 0.001 * whole, rtol=1e-3, atol=0)


def test_pissa_begins_at_the_principal_components(tiny_folder: Path) -> None:
    weight = base_model(tiny_folder).get_submodule(LAYER).weight.detach()
    layer = attached(tiny_folder, "pissa", r=4).get_base_model().get_submodule(LAYER)
    sizes = torch.linalg.svdvals(weight)
    found = torch.linalg.svdvals(layer.get_delta_weight("default"))
    torch.testing.assert_close(found[:4], sizes[:4], rtol=0.05, atol=0)
    torch.testing.assert_close(layer.base_layer.weight + layer.get_delta_weight("default"), weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_of_another_decomposition_is_taken_up(tiny_folder: Path, dtype: str) -> None:
    """Another machine's singular vectors may have other signs, and where singular values are equal, be others."""
    models = []
    for seed in (1, 2):
        base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=vars(torch)[dtype])
        torch.manual_seed(seed)  # four rounds from a random subspace: the seed tells in the last digits
        models.append(lora.attach(base, config_of("pissa", r=4)))
    first, second = models
    with torch.no_grad():
        for layer in (model.get_base_model().get_submodule(LAYER) for model in models[1:]):
            layer.begin_again(-layer.start[0] * 1.5, -layer.start[1])  # and far from it
    state = lora.HOOKS.state(first, config_of("pissa"))
    lora.HOOKS.restore(second, config_of("pissa"), state)
    found = lora.HOOKS.state(second, config_of("pissa"))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], item) for name, item in state.items())
    ours = {name: item for name, item in first.named_parameters() if "base_layer" in name}
    theirs = {name: item for name, item in second.named_parameters() if "base_layer" in name}
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for name, item in ours.items():
        torch.testing.assert_close(theirs[name], item, rtol=tolerance, atol=tolerance)
    bits = {name: item.clone() for name, item in theirs.items()}
    lora.HOOKS.restore(second, config_of("pissa"), state)
    assert all(torch.equal(theirs[name], item) for name, item in bits.items()), "the same start moves nothing"


def test_a_sharded_base_takes_up_another_start(tiny_folder: Path, make_plan: MakePlan) -> None:
    plan = plan_of(make_plan, tiny_folder, "pissa")
    try:
        backend = TorchBackend(plan, Together(shard=True))
        (name, layer) = next(iter(starts.moved(backend._model).items()))
        before, (down, up) = layer.base_layer.weight.full_tensor().clone(), layer.start
        state = dict(lora.HOOKS.state(backend._model, config_of("pissa")))
        state[f"{name}.start_A"] = 1.5 * down
        lora.HOOKS.restore(backend._model, config_of("pissa"), state)
        taken = before - layer.base_layer.weight.full_tensor()
    finally:
        leave()
    torch.testing.assert_close(taken, 2.0 * up @ (0.5 * down), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["pissa", "olora", "eva", "dora", "lora_plus", "loftq"])
def test_going_on_from_a_checkpoint_is_the_same_run(
    tiny_folder: Path, tmp_path: Path, make_plan: MakePlan, method: str
) -> None:
    plan = plan_of(make_plan, tiny_folder, method)
    whole = backend_of(plan)
    train(whole, 2)
    whole.save(tmp_path)
    expected = train(whole, 2)
    torch.manual_seed(99)
    again = backend_of(plan)
    again.load(tmp_path)
    assert train(again, 2) == expected
    whole.export(tmp_path / "one")
    again.export(tmp_path / "two")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(two[name], item) for name, item in one.items())


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dora", "pissa", "olora", "rslora"])
def test_gradients_are_those_of_plain_peft(tiny_folder: Path, make_plan: MakePlan, method: str) -> None:
    """Packed, and fused where that is possible, against PEFT's own forward, one example at a time."""
    plan = plan_of(make_plan, tiny_folder, method)
    backend = backend_of(plan)
    assert any("DoRA" in warning for warning in backend.warnings) == (method == "dora")
    init = {"pissa": "pissa_niter_4", "olora": "olora"}.get(method, True)
    peft_config = LoraConfig(
        r=4, lora_alpha=config_of(method, r=4).effective_alpha, target_modules="all-linear", task_type="CAUSAL_LM",
        use_dora=method == "dora", use_rslora=method == "rslora", init_lora_weights=init,
    )  # fmt: skip
    torch.manual_seed(plan.seed)
    plain = get_peft_model(base_model(tiny_folder), peft_config).train()
    parameters = {name: item for name, item in plain.named_parameters() if item.requires_grad}
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, item in backend._updates.masters.items():
            item.add_(torch.randn(item.shape, generator=draw) * 0.05)
            parameters[name].copy_(item)
    backend._refresh()
    batches = pack(segments(), micro_tokens=64)
    weight = sum(sft.weight(batch) for batch in batches)
    for batch in batches:
        backend.forward_backward(batch, sft, sft.Config(), weight)
    for item in segments():
        found = plain(input_ids=torch.tensor([item.tokens])).logits[0]
        losses = F.cross_entropy(found, torch.tensor(item.targets), reduction="none")
        ((losses * torch.tensor(item.weights)).sum() / weight).backward()
    for name, item in backend._updates.masters.items():
        torch.testing.assert_close(item.grad, parameters[name].grad, rtol=1e-4, atol=1e-5 * float(item.grad.norm()))


@pytest.mark.parametrize("method", sorted(lora.PRESETS))
def test_training_learns(tiny_folder: Path, make_plan: MakePlan, method: str) -> None:
    losses = train(backend_of(plan_of(make_plan, tiny_folder, method)), 6)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("method", sorted(lora.PRESETS))
def test_dropout_is_no_leak_and_no_other_head(tiny_folder: Path, make_plan: MakePlan, method: str) -> None:
    """Where an adapter says something from the start, two forwards with dropout differ."""
    backend = backend_of(plan_of(make_plan, tiny_folder, method, dropout=0.1))
    assert [warning for warning in backend.warnings if "packing" in warning] == []
    assert all(part.training for part in backend._model.modules() if isinstance(part, torch.nn.Dropout) and part.p)
    losses = train(backend, 6)
    assert losses[-1] < losses[0]


# ---- EVA -------------------------------------------------------------------------------------------------------------


def inputs_of(model: Any, layer: str, rows: Sequence[Segment]) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    module = model.get_base_model().get_submodule(layer)
    handle = module.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].detach()[0]))
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row.tokens]))
    handle.remove()
    return torch.cat(seen)


def test_eva_begins_at_the_directions_of_the_inputs(tiny_folder: Path) -> None:
    config = config_of("eva", r=4)
    model = attached(tiny_folder, "eva", r=4)
    attention = model.get_base_model().config._attn_implementation
    lora.HOOKS.calibrate(model, config, pack(segments(24), micro_tokens=200))
    assert model.get_base_model().config._attn_implementation == attention
    down = model.get_base_model().get_submodule(LAYER).lora_A["default"].weight.detach()
    torch.testing.assert_close(down @ down.T, torch.eye(4), rtol=1e-3, atol=1e-3)
    inputs = inputs_of(model, LAYER, segments(24))
    centred = inputs - inputs.mean(dim=0)
    captured = (centred @ down.T).square().sum() / centred.square().sum()
    best = torch.linalg.svdvals(centred).square()
    assert captured > 0.95 * best[:4].sum() / best.sum()
    assert torch.allclose(logits(model), logits(base_model(tiny_folder)), atol=1e-5)


def test_eva_looks_at_encoders_and_decoders(tmp_path: Path) -> None:
    sizes = {"vocab_size": 2000, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(3)
    model = lora.attach(T5ForConditionalGeneration(T5Config(**sizes)), config_of("eva", r=4))
    before = {name: item.clone() for name, item in model.named_parameters() if "lora_A" in name}
    lora.HOOKS.calibrate(model, config_of("eva", r=4), pack(segments(24), micro_tokens=200))
    after = dict(model.named_parameters())
    assert len(before) == 2 * (4 + 2) + 2 * (4 + 4 + 2)
    assert not any(torch.equal(after[name], item) for name, item in before.items())


def test_eva_needs_as_many_tokens_as_directions(tiny_folder: Path) -> None:
    model = attached(tiny_folder, "eva", r=16)
    few = pack([segment("row", list(range(5, 12)), [1.0] * 7)], micro_tokens=64)
    with pytest.raises(RecipeError, match="eva looks for 16 directions"):
        lora.HOOKS.calibrate(model, config_of("eva"), few)
    lora.HOOKS.calibrate(model, config_of("eva"), [])


def test_eva_gives_up_on_directions_that_do_not_settle(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "MOST_FORWARDS", 2)
    with pytest.raises(ModelError, match="do not settle in 2 forwards"):
        lora.HOOKS.calibrate(attached(tiny_folder, "eva", r=4), config_of("eva"), pack(segments(), micro_tokens=64))


# ---- LoftQ -----------------------------------------------------------------------------------------------------------


def test_loftq_takes_out_what_four_bits_lose(tiny_folder: Path) -> None:
    """Of a base in full: the sum stays, and four bits hold the rest better than the whole."""
    weight = base_model(tiny_folder).get_submodule(LAYER).weight.detach()
    layer = attached(tiny_folder, "loftq", r=8).get_base_model().get_submodule(LAYER)
    rest = layer.base_layer.weight.detach()
    torch.testing.assert_close(rest + layer.get_delta_weight("default"), weight)

    def lost(matrix: torch.Tensor) -> torch.Tensor:
        return (matrix - pack_four(matrix, "nf4").whole(torch.float32)).norm()

    assert lost(rest) < 0.8 * lost(weight)


def test_loftq_on_a_base_in_four_bits(tiny_folder: Path, tmp_path: Path) -> None:
    """The base stays as it is; with the start it is as near to the checkpoint as eight directions can bring it."""
    weight = base_model(tiny_folder).get_submodule(LAYER).weight.detach()
    base = load_base(tiny_folder, torch.float32, "nf4", attention="sdpa", packed=True)
    before = logits(base)
    model = lora.attach(base, config_of("loftq", r=8))
    layer = model.get_base_model().get_submodule(LAYER)
    held = pack_four(weight, "nf4").whole(torch.float32)
    assert torch.equal(layer.base_layer.weight, held)
    best = torch.linalg.svdvals(weight - held)[8:].norm()
    assert (weight - held - layer.get_delta_weight("default")).norm() < 1.05 * best
    whole = logits(base_model(tiny_folder))
    assert (logits(model) - whole).norm() < (before - whole).norm()
    assert lora.HOOKS.state(model, config_of("loftq")) == {}
    lora.export(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["init_lora_weights"]) == (8, True)


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "down_proj")])
@pytest.mark.parametrize("held", ["none", "nf4"])
def test_loftq_decomposes_what_gets_an_adapter_alone(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, held: str, targets: tuple[str, ...]
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(starts, "begin", lambda model, found: taken.extend(found))
    base = load_base(tiny_folder, torch.float32, held, attention="sdpa", packed=True)  # type: ignore[arg-type]
    model = lora.attach(base, config_of("loftq", r=4, top_layers=1, targets=targets))
    adapted = [name for name, part in model.get_base_model().named_modules() if isinstance(part, LoraLayer)]
    assert sorted(taken) == sorted(adapted)
    assert all(".layers.1." in name for name in taken)


def test_loftq_in_the_top_layers_alone(tiny_folder: Path) -> None:
    model = attached(tiny_folder, "loftq", r=4, top_layers=1)
    assert set(starts.moved(model)) == {f"base_model.model.model.layers.1.{name}" for name in (
        *(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    )}  # fmt: skip
    assert torch.allclose(logits(model), logits(base_model(tiny_folder)), atol=1e-4)


# ---- what an engine reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [False, True])
def test_dora_is_an_update_and_a_scale(tiny_folder: Path, tmp_path: Path, biased: bool) -> None:
    """Where there is a bias, which is not scaled, another weight."""
    base = base_model(tiny_folder)
    if biased:
        base.get_submodule(LAYER).bias = torch.nn.Parameter(torch.ones(32))
    model = lora.attach(copy.deepcopy(base), config_of("dora", r=4))
    torch.manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    lora.export(model, tmp_path)
    modules = lora.changes(base, tmp_path).modules
    assert len(modules) == 2 * 7
    for name, own in modules.items():
        layer = base.get_submodule(name)
        x = torch.randn(3, layer.in_features)
        with torch.no_grad():
            match own:
                case (LowRank() as low, Scale() as scale):
                    y = (layer(x) + x @ low.down_RK.T @ low.up_NR.T) * scale.output_N
                case (Weight() as other,):
                    y = F.linear(x, other.weight, layer.bias)
            theirs = model.eval().get_base_model().get_submodule(name)(x)
        torch.testing.assert_close(y, theirs, rtol=1e-4, atol=1e-4)
        assert isinstance(own[-1], Weight) == (biased and name == LAYER)


def save_by_peft(base: Path, folder: Path, **settings: Any) -> Any:
    model = get_peft_model(base_model(base), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **settings))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def test_an_adapter_from_elsewhere_that_moved_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    """PiSSA by a whole decomposition can be repeated from the base; starts that hang on chance or data cannot."""
    model = save_by_peft(tiny_folder, tmp_path, r=4, lora_alpha=4, init_lora_weights="pissa")
    base = base_model(tiny_folder)
    for layer, (change,) in lora.changes(base, tmp_path).modules.items():
        with torch.no_grad():
            base.get_submodule(layer).weight.copy_(change.weight)
    torch.testing.assert_close(logits(base), logits(model), rtol=1e-4, atol=1e-4)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    for start in ("pissa_niter_4", "corda", "loftq", "lora_ga"):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "init_lora_weights": start}))
        with pytest.raises(ModelError, match=f"init_lora_weights = '{start}'") as caught:
            lora.changes(base, tmp_path)
        assert "path_initial_model_for_weight_conversion" in caught.value.hint


def test_mixed_rows_are_refused(tiny_folder: Path) -> None:
    """PEFT answers rows of the base by a base that has lost the adapter's start, and raises for DoRA."""
    for method in ("pissa", "dora"):
        with pytest.raises(Exception, match="all rows of a batch get the active adapter"):
            attached(tiny_folder, method)(input_ids=IDS, adapter_names=["__base__"])
