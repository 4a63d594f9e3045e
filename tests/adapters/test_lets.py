"""LeTS-style branches: their masks, their sparse weights, and that they run over the depth of one token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sartor.adapters import lets
from sartor.adapters.beside import branches, tuner
from sartor.backends.torch import TorchBackend
from sartor.data.pack import pack
from sartor.errors import RecipeError
from sartor.hub import shape
from sartor.plan import Adam, Choice, Plan

from .backbones import VOCAB, attached, load, moved, packed_gradients, save_backbone, segments, trainable

IDS = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


def network_of(model: Any) -> Any:
    return tuner.norm_of(model).network


def test_the_count_is_the_masks_and_the_aggregator(smollm2_folder: Path) -> None:
    config = lets.Config(density=0.01, width=32)
    attention = [round(0.01 * size) for size in (576 * 576, 576 * 192, 576 * 192, 576 * 576)]
    wanted = 30 * sum(attention) + 2 * 576 * 32 + 4 * (2 * 32 * 32 + 2 * 32)
    assert lets.count(shape(smollm2_folder), config) == wanted


def test_masks_are_the_most_sensitive_entries(folder: Path) -> None:
    rows = segments()
    model, base = attached(folder, "lets"), load(folder)
    lets.HOOKS.calibrate(model, lets.Config(), pack(rows, micro_tokens=32))
    for row in rows:
        logits = base(input_ids=torch.tensor([row.tokens])).logits[0]
        losses = nn.functional.cross_entropy(logits, torch.tensor(row.targets), reduction="none")
        (losses * torch.tensor(row.weights)).sum().backward()
    for name, part in network_of(model).sparse():
        number, _, linear = name.partition(".")
        weight = base.model.layers[int(number)].self_attn.get_submodule(linear).weight
        weighed = (weight.grad * weight).abs().flatten()
        assert len(part.places_M) == round(0.05 * weight.numel())
        assert torch.equal(part.places_M.long(), weighed.topk(len(part.places_M)).indices.sort().values)
    assert all(item.grad is None for item in model.parameters())


def test_a_sparse_layer_is_the_linear_layer_of_the_sum() -> None:
    torch.manual_seed(5)
    base = nn.Linear(6, 4).double()
    sparse = branches.SparseLinear(base, density=0.3).double()
    assert len(sparse.values_M) == 7
    base.requires_grad_(False)
    sparse.values_M.data.normal_()
    x = torch.randn(2, 3, 6, dtype=torch.double, requires_grad=True)
    whole = base.weight.clone()
    whole.view(-1)[sparse.places_M.long()] += sparse.values_M.detach()
    assert torch.allclose(sparse(x), nn.functional.linear(x, whole, base.bias))
    assert torch.autograd.gradcheck(sparse, (x,))
    assert torch.autograd.gradcheck(
        lambda values: branches._SparseProduct.apply(x, base.weight, values, sparse.places_M), (sparse.values_M,)
    )


def test_branches_without_changes_are_the_backbones_own_attention(folder: Path) -> None:
    """Token by token: the LSTM reads what the attention of each layer gives, from the first to the last."""
    model, base = attached(folder, "lets", width=8), load(folder)
    side = network_of(model)
    nn.init.normal_(side.up.weight)
    given: list[torch.Tensor] = []
    for layer in base.model.layers:
        layer.self_attn.register_forward_hook(lambda part, args, output: given.append(output[0]))
    with torch.no_grad():
        normed = base.model(input_ids=IDS).last_hidden_state
        wanted = normed.clone()
        for row in range(2):
            for token in range(9):
                depth = torch.stack([side.down(item[row, token]) for item in given])
                wanted[row, token] += side.up(side.depth(depth)[0][-1])
        assert torch.allclose(model(input_ids=IDS).logits, base.lm_head(wanted), rtol=1e-4, atol=1e-4)


def test_branches_only_at_the_top(folder: Path) -> None:
    model = moved(attached(folder, "lets", top_layers=1))
    assert network_of(model).layers == [2]
    assert sum(item.numel() for item in trainable(model).values()) == lets.count(
        shape(folder), lets.Config(top_layers=1)
    )
    ids = IDS
    for _ in range(6):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    asked = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(input_ids=IDS, **asked), ids)
    with pytest.raises(RecipeError, match=r"`tune\.adapter\.top_layers` is 4"):
        attached(folder, "lets", top_layers=4)


def test_a_quantised_or_other_attention_is_refused(folder: Path) -> None:
    base = load(folder)
    base.model.layers[0].self_attn.q_proj = nn.Sequential(base.model.layers[0].self_attn.q_proj)
    with pytest.raises(RecipeError, match="plain layers q_proj, k_proj, v_proj, o_proj, not k_proj, v_proj, o_proj"):
        lets.attach(base, lets.Config())


def test_what_is_saved_is_sparse(folder: Path, tmp_path: Path) -> None:
    lets.export(moved(attached(folder, "lets")), tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    values = [item for name, item in saved.items() if name.endswith("values_M")]
    places = [item for name, item in saved.items() if name.endswith("places_M")]
    assert [len(item) for item in values] == [len(item) for item in places]
    assert sorted(map(len, values)) == 6 * [26] + 6 * [51]
    assert {item.dtype for item in places} == {torch.int32}
    assert sum(item.numel() for item in saved.values()) == lets.count(shape(folder), lets.Config()) + 3 * 154


def test_masks_are_part_of_a_checkpoint(folder: Path, make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    """Even where the run that goes on was calibrated on something else."""
    plan = make_plan(folder, adapter=Choice(name="lets"), family="lets")
    adam = Adam(learning_rate=1e-2, weight_decay=0.0, clip=1.0)
    first = TorchBackend(plan, examples=pack(segments(), micro_tokens=64))
    packed_gradients(first, segments())
    first.step(adam)
    first.save(tmp_path)
    second = TorchBackend(plan, examples=pack(segments()[:1], micro_tokens=64))
    ours, theirs = (branches.masks(backend._model) for backend in (first, second))
    assert any(not torch.equal(places, theirs[name]) for name, places in ours.items())
    second.load(tmp_path)
    assert all(torch.equal(places, theirs[name]) for name, places in ours.items())
    slopes = [packed_gradients(backend, segments()) for backend in (first, second)]
    assert all(torch.equal(slope, slopes[1][name]) for name, slope in slopes[0].items())
