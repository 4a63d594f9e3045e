"""Kept activations: the same run to the last bit with them and without, and every fault in them found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.backends.estimate import KEPT_SHARE
from sartor.backends.frozen import Cache, Forward, Frozen, find_fault, keep_below, key, num_frozen, split
from sartor.backends.torch import TorchBackend
from sartor.data.pack import Steps, pack, segment
from sartor.errors import MachineError, Unsupported
from sartor.hardware import memory_bytes
from sartor.types import Batch

from .conftest import MakePlan

VOCAB = 96
LOWEST = 2


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return random_model(LlamaForCausalLM, LlamaConfig, **changes)


def qwen3(**changes: Any) -> Any:
    """Qwen3 reads the kind of each layer by its number: one of them has a sliding window."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    settings = {"head_dim": 8, "layer_types": kinds, "use_sliding_window": True, "sliding_window": 5, **changes}
    return random_model(Qwen3ForCausalLM, Qwen3Config, **settings)


def random_model(kind: Any, config: Any, **changes: Any) -> Any:
    torch.manual_seed(8)
    settings = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "attn_implementation": "sdpa", **changes,
    }  # fmt: skip
    model = kind(config(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


def adapted(model: Any, **changes: Any) -> Any:
    """LoRA on the two layers at the top, awake."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [2, 3]}
    tuned = get_peft_model(model, LoraConfig(**{**settings, **changes}))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return tuned.train()


def run_through(decoder: Any, inputs_TD: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    """One forward over packed segments, which transformers tells apart by their positions."""
    return decoder(
        inputs_embeds=inputs_TD[None], position_ids=positions_T[None], attention_mask=None, use_cache=False
    ).last_hidden_state[0]


def forward_of(decoder: Any) -> Forward:
    return lambda tokens, positions: run_through(decoder, decoder.get_input_embeddings()(tokens), positions)


def halves_of(decoder: Any, lowest: int) -> Forward:
    lower, upper = split(decoder, lowest)
    return lambda tokens, positions: run_through(upper, forward_of(lower)(tokens, positions), positions)


def examples(count: int = 9) -> list[Any]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for row in range(count):
        ids = torch.randint(VOCAB, (7 + 3 * row,), generator=draw).tolist()
        made.append([segment(f"row {row}", ids, [0.0, 0.0, *[1.0] * (len(ids) - 2)])])
    return made


def batch_of(count: int = 3) -> Batch:
    (batch,) = pack([item for members in examples(count) for item in members], micro_tokens=10_000)
    return batch


Trajectory = tuple[list[float], dict[str, torch.Tensor], list[Frozen]]


def trained(make: Callable[[], Any], caches: list[Cache]) -> Trajectory:
    """Four epochs of AdamW on the top layers: with caches, each taking over in turn, or with the decoder as it is."""
    model = adapted(make())
    decoder, embed = model.get_base_model().model, model.get_input_embeddings()
    lower, upper = split(decoder, num_frozen(model, decoder, model.get_output_embeddings()))
    frozen = [Frozen(forward_of(lower), cache, verify_every=9) for cache in caches]
    weights = {name: item for name, item in model.named_parameters() if item.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2)
    steps = Steps(examples(), batch_size=3, micro_tokens=40, seed=3)
    losses = []
    for number in range(12):
        for batch in next(steps):
            tokens_T, positions_T = torch.from_numpy(batch.tokens_T), torch.from_numpy(batch.positions_T)
            if frozen:
                inputs_TD = frozen[number * len(frozen) // 12].hidden(batch)
                hidden_TD = run_through(upper, inputs_TD, positions_T)
            else:
                hidden_TD = run_through(decoder, embed(tokens_T), positions_T)
            logits_TV = hidden_TD @ model.get_output_embeddings().weight.t()
            loss = F.cross_entropy(logits_TV, torch.from_numpy(batch.targets_T), reduction="none")
            (loss * torch.from_numpy(batch.weights_T)).sum().div(30).backward()
            losses.append(float(loss.detach().sum()))
        optimizer.step()
        optimizer.zero_grad()
    return losses, {name: item.detach().clone() for name, item in weights.items()}, frozen


@pytest.mark.parametrize("make", [llama, qwen3])
def test_the_run_with_the_cache_is_the_run_without_it_to_the_last_bit(make: Callable[[], Any]) -> None:
    wanted, weights, (frozen,) = trained(make, [Cache(memory_bytes=0)])
    assert (frozen.num_computed, frozen.num_reused) == (36, 0)
    room = 10**9
    # Where the entries are: what is computed, and what is used again. 9 segments, 4 epochs, every 9th use verified.
    ways = {
        "all in memory": ([Cache(memory_bytes=room)], [(9 + 3, 27)]),
        "some in memory": ([Cache(memory_bytes=8_000)], [(24 + 2, 12)]),
        "lost half way": ([Cache(memory_bytes=room), Cache(memory_bytes=room)], [(9 + 1, 9), (9 + 1, 9)]),
    }
    for way, (caches, counts) in ways.items():
        losses, found, frozen = trained(make, caches)
        assert losses == wanted, way
        assert all(torch.equal(found[name], weights[name]) for name in weights), way
        assert [(each.num_computed, each.num_reused) for each in frozen] == counts, way
    assert sum(wanted[-3:]) < sum(wanted[:3])


@pytest.mark.parametrize("make", [llama, qwen3])
def test_and_it_is_the_run_of_the_whole_decoder(make: Callable[[], Any]) -> None:
    wanted, weights, _ = trained(make, [])
    losses, found, _ = trained(make, [Cache(memory_bytes=10**9)])
    assert losses == pytest.approx(wanted, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)


def test_each_segment_is_computed_once() -> None:
    model = llama()
    lower, _ = split(model.model, LOWEST)
    frozen = Frozen(forward_of(lower), Cache(memory_bytes=10**9), verify_every=4)
    first = frozen.hidden(batch_of(3))
    assert (frozen.num_computed, frozen.num_reused) == (3, 0)
    assert torch.equal(frozen.hidden(batch_of(3)), first)
    assert (frozen.num_computed, frozen.num_reused) == (4, 3), "the first that is used again is computed again"
    frozen.hidden(batch_of(3))
    assert (frozen.num_computed, frozen.num_reused) == (5, 6), "and every fourth after it"


def test_what_is_kept_does_not_depend_on_the_company() -> None:
    lower, _ = split(llama().model, LOWEST)
    frozen = Frozen(forward_of(lower), Cache(memory_bytes=0))
    batch = batch_of(4)
    together = frozen.hidden(batch)
    for (item,) in examples(4):
        (alone,) = pack([item], micro_tokens=1)
        index = batch.rows.index(item.row)
        assert torch.equal(frozen.hidden(alone), together[batch.offsets_S1[index] : batch.offsets_S1[index + 1]])


def test_a_copy_in_the_same_batch_is_computed_once() -> None:
    item = examples(1)[0][0]
    (batch,) = pack([item, item], micro_tokens=1000)
    lower, _ = split(llama().model, LOWEST)
    frozen = Frozen(forward_of(lower), Cache(memory_bytes=0))
    one, other = frozen.hidden(batch).chunk(2)
    assert torch.equal(one, other)
    assert frozen.num_computed == 1


def test_a_planted_corruption_trips_the_verification() -> None:
    lower, _ = split(llama().model, LOWEST)
    cache = Cache(memory_bytes=10**9)
    frozen = Frozen(forward_of(lower), cache, verify_every=2)
    frozen.hidden(batch_of(1))
    frozen.hidden(batch_of(1))
    (item,) = cache._kept.values()
    item[3, 5] += 1e-6
    frozen.hidden(batch_of(1))  # not the turn of this one
    with pytest.raises(MachineError, match="kept activations of row 0 are not what the model computes") as caught:
        frozen.hidden(batch_of(1))
    assert "start the same command again" in caught.value.hint
    assert cache.in_memory == 0
    frozen.hidden(batch_of(1))


# ---- the cache -------------------------------------------------------------------------------------------------------


def entries(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((4, 8), float(number + 1)) for number, name in enumerate(names)}


def test_budgets_are_respected_and_nothing_is_turned_out() -> None:
    size = 4 * 8 * 4
    cache = Cache(memory_bytes=2 * size + 1)
    cache.put(entries("a", "b", "c"))
    cache.put(entries("a"))
    assert cache.in_memory == 2 * size
    assert cache.get("c") is None
    for name, item in entries("a", "b").items():
        assert torch.equal(cache.get(name), item)
    cache.clear()
    assert (cache.in_memory, cache.get("a")) == (0, None)


def test_the_key_tells_tokens_and_positions_apart() -> None:
    tokens, positions = torch.tensor([1, 2]), torch.tensor([0, 1])
    keys = {
        key(tokens, positions),
        key(tokens + 1, positions),
        key(tokens, positions + 1),
        key(torch.tensor([1, 2, 0, 1]), torch.tensor([], dtype=torch.int64)),
    }
    assert len(keys) == 4
    assert key(tokens.clone(), positions) in keys


@pytest.mark.parametrize("local_size", [1, 2])
def test_the_ranks_of_a_machine_share_what_one_process_keeps(
    tiny_folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, local_size: int
) -> None:
    places = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(local_size)}
    for name, value in {"TORCHELASTIC_RUN_ID": "x", **places}.items():
        monkeypatch.setenv(name, value)
    top = {"name": "lora", "settings": {"r": 4, "top_layers": 1}}
    frozen = TorchBackend(make_plan(tiny_folder, adapter=top))._frozen
    assert frozen is not None
    assert frozen._cache._memory_bytes == int(KEPT_SHARE * memory_bytes()) // local_size


def test_on_a_gpu_nothing_is_kept() -> None:
    policy: Any = SimpleNamespace(device=torch.device("cuda"), upper=None)
    assert keep_below(policy, nn.Identity()) == (None, "")
    assert policy.upper is None


# ---- the two halves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [llama, qwen3])
@pytest.mark.parametrize("lowest", [0, 1, 3, 4])
def test_two_halves_are_the_decoder_and_share_its_weights(make: Callable[[], Any], lowest: int) -> None:
    model = make().train()
    decoder = model.model
    assert find_fault(forward_of(decoder), halves_of(decoder, lowest), VOCAB) == ""
    lower, upper = split(decoder, lowest)
    assert (len(lower.layers), len(upper.layers)) == (lowest, 4 - lowest)
    assert len(decoder.layers) == decoder.config.num_hidden_layers == 4
    assert isinstance(lower.norm, torch.nn.Identity)
    assert upper.norm is decoder.norm
    own = {id(item) for item in decoder.parameters()}
    assert {id(item) for view in (lower, upper) for item in view.parameters()} == own


def test_the_head_of_the_whole_model_is_untouched() -> None:
    model = llama().eval()
    ids = torch.arange(9)[None]
    before = model(input_ids=ids).logits
    split(model.model, LOWEST)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_dropout_is_found() -> None:
    decoder = llama(attention_dropout=0.5).train().model
    torch.manual_seed(6)
    state = torch.get_rng_state()
    assert "as under dropout" in find_fault(forward_of(decoder), halves_of(decoder, LOWEST), VOCAB)
    assert torch.equal(torch.get_rng_state(), state), "asking draws no random number of the run"


def test_a_decoder_that_scales_its_input_is_found() -> None:
    decoder = llama().model
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * 2}), with_kwargs=True
    )
    assert "not the decoder" in find_fault(forward_of(decoder), halves_of(decoder, LOWEST), VOCAB)


def test_a_decoder_of_another_build_is_refused() -> None:
    with pytest.raises(Unsupported, match="Sequential has no `layers` and `norm`"):
        split(torch.nn.Sequential(torch.nn.Linear(2, 2)), 1)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({}, 2), ({"layers_to_transform": [3]}, 3), ({"layers_to_transform": [0, 3]}, 0)],
)
def test_the_frozen_layers_are_those_below_the_lowest_trained_one(settings: dict[str, Any], wanted: int) -> None:
    model = adapted(llama(), **settings)
    assert num_frozen(model, model.get_base_model().model, model.get_output_embeddings()) == wanted


def test_nothing_is_frozen_when_what_feeds_the_layers_is_trained() -> None:
    """And never the last layer, where no other is trained: it picks the supervised rows."""

    def frozen_in(model: Any) -> int:
        return num_frozen(model, model.model, model.lm_head)

    for tied, wanted in ((True, 0), (False, 3)):
        model = llama(tie_word_embeddings=tied).requires_grad_(False)
        assert frozen_in(model) == 3
        model.model.norm.requires_grad_(True)
        assert frozen_in(model) == 3
        model.lm_head.requires_grad_(True)
        assert frozen_in(model) == wanted
    model.model.embed_tokens.requires_grad_(True)
    assert frozen_in(model) == 0
