"""Ladder Side-Tuning: its published count, how it begins, its formula, and what it keeps for a backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sartor.adapters import lst
from sartor.adapters.beside import ladder, pruning, tuner
from sartor.adapters.beside.sizes import narrow_head
from sartor.data.pack import pack
from sartor.errors import RecipeError, Unsupported
from sartor.hub import shape

from .backbones import VOCAB, attached, load, moved, save_backbone, saved_bytes, segments, trainable

IDS = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(2))
FAMILIES = (MistralConfig, Qwen2Config, Qwen3Config, Gemma2Config, Gemma3TextConfig)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


def network_of(model: Any) -> Any:
    return tuner.norm_of(model).network


def tiny_t5() -> Any:
    torch.manual_seed(5)
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
    config = T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=None)
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    return model


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_the_published_count_on_t5_base() -> None:
    sizes = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(**sizes))
        whole = sum(parameter.numel() for parameter in model.parameters())
        tuned = trainable(lst.attach(model, lst.Config(r=8, drop_layers=(0, 4, 8))))
    found = sum(parameter.numel() for parameter in tuned.values())
    assert (whole, found) == (222_903_552, 3_878_712)
    assert f"{found / whole:.3%}" == "1.740%"


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"r": 4}, {"r": 2, "drop_layers": (0, 2)}])
def test_the_count_is_exact(tmp_path: Path, kind: type[Any], settings: dict[str, Any]) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 16}
    kind(**sizes, num_attention_heads=4, num_key_value_heads=2).save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
        model = lst.attach(model, lst.Config(**settings))
    found = sum(parameter.numel() for parameter in trainable(model).values())
    assert lst.count(shape(tmp_path), lst.Config(**settings)) == found


def test_sizes_that_do_not_suit_the_model_are_refused(folder: Path) -> None:
    for settings, said in (({"r": 3}, "widths are 32 and 64"), ({"drop_layers": (3,)}, "has 3 layers")):
        config = lst.Config(**settings)
        with pytest.raises(RecipeError, match=said):
            lst.count(shape(folder), config)
        with pytest.raises(RecipeError, match=said):
            lst.attach(load(folder), config)
    with pytest.raises(RecipeError) as caught:
        lst.count(shape(folder), lst.Config(r=3))
    assert caught.value.hint == "one that divides both: 2, 4, 8, 16, 32"
    with pytest.raises(RecipeError) as caught:
        lst.count(shape(folder), lst.Config(drop_layers=(0, 1, 2)))
    assert caught.value.hint == "numbers from 0 to 2, and not all of them"
    assert [narrow_head(size, 8) for size in (8, 32, 64, 80, 128)] == [2, 4, 8, 10, 16]


def test_other_layers_than_llamas_are_refused() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = AutoModelForCausalLM.from_config(PhiConfig(**sizes, num_attention_heads=4))
    with pytest.raises(RecipeError, match="does not keep its layers and final norm as Llama does"):
        lst.attach(model, lst.Config())


# ---- how it begins ---------------------------------------------------------------------------------------------------


def test_it_begins_as_the_pruned_backbone(folder: Path) -> None:
    base = load(folder)
    side = network_of(attached(folder, "lst", r=4))
    sums = torch.zeros(32)
    for layer in base.model.layers:
        for part in (*(vars(layer.self_attn)["_modules"][f"{name}_proj"] for name in "qkv"), layer.mlp.gate_proj,
                     layer.mlp.up_proj):  # fmt: skip
            sums += part.weight.abs().sum(dim=0)
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            sums += part.weight.abs().sum(dim=1)
    hidden = sums.topk(8).indices.sort().values
    state = torch.randn(1, 5, 32)
    assert torch.equal(side.first(state), state[..., hidden])
    assert all(torch.equal(down(state), state[..., hidden]) for down in side.downs)
    layer, block = base.model.layers[1], side.blocks[1]
    assert torch.equal(block.input_layernorm.weight, layer.input_layernorm.weight[hidden])
    inner = layer.mlp.gate_proj.weight.abs().sum(1) + layer.mlp.up_proj.weight.abs().sum(1)
    inner = (inner + layer.mlp.down_proj.weight.abs().sum(0)).topk(16).indices.sort().values
    assert torch.equal(block.mlp.down_proj.weight, layer.mlp.down_proj.weight[hidden][:, inner])
    rotated = torch.tensor([0, 4])  # of heads of 8: the fastest of 4 frequencies
    query = torch.cat([rotated + 8 * head for head in range(4)])
    assert torch.equal(block.self_attn.q_proj.weight, layer.self_attn.q_proj.weight[query][:, hidden])
    assert torch.equal(side.norm.weight, base.model.norm.weight[hidden])
    assert not side.up.weight.any()


def test_pruning_to_the_whole_is_the_backbone(folder: Path) -> None:
    """With r = 1 nothing is lost, whatever the order of weights: a side layer then is the layer itself."""
    side, base = network_of(attached(folder, "lst", r=2)), load(folder)
    whole = ladder.DecoderLadder(base.model, ladder.LadderConfig(reduction=1))
    assert side.head_sizes == (4, 8)
    for block, layer in zip(whole.blocks, base.model.layers, strict=True):
        for (name, ours), theirs in zip(block.named_parameters(), layer.parameters(), strict=True):
            assert torch.equal(ours, theirs), name


def test_fisher_information_prunes_in_another_way_and_the_same_again(folder: Path) -> None:
    batches = pack(segments(), micro_tokens=32)
    made = []
    for importance in ("magnitude", "fisher", "fisher"):
        model = attached(folder, "lst", importance=importance)
        lst.HOOKS.calibrate(model, lst.Config(importance=importance), batches)
        made.append({name: item.detach().clone() for name, item in trainable(model).items()})
        before = load(folder).state_dict()
        names = {name.replace(".base_layer", ""): item for name, item in model.get_base_model().state_dict().items()}
        assert all(torch.equal(names[name], item) for name, item in before.items())
        assert all(item.grad is None for item in model.parameters())
    assert any(not torch.equal(made[0][name], item) for name, item in made[1].items())
    assert all(torch.equal(made[2][name], item) for name, item in made[1].items())


def test_fisher_information_is_the_sum_of_squared_slopes(folder: Path) -> None:
    rows = segments()
    model, base = attached(folder, "lst"), load(folder)
    found = pruning.fisher(model, model.get_base_model().model, pack(rows, micro_tokens=10**6))
    wanted = torch.zeros(64, 32)
    for row in rows:
        base.zero_grad()
        logits = base(input_ids=torch.tensor([row.tokens])).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets), reduction="none")
        (losses * torch.tensor(row.weights)).sum().backward()
        wanted += base.model.layers[1].mlp.up_proj.weight.grad.square()
    outputs, inputs = found[1, "mlp.up_proj"]
    assert torch.allclose(outputs, wanted.sum(dim=1), rtol=1e-4)
    assert torch.allclose(inputs, wanted.sum(dim=0), rtol=1e-4)


def test_narrow_heads_are_rotated_as_a_rotary_embedding_of_their_size() -> None:
    config = AutoConfig.for_model("llama", hidden_size=64, num_attention_heads=4, head_dim=16)
    positions = torch.arange(7)[None]
    wide = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    for size in (8, 4, 2):
        config.head_dim = size
        wanted = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
        found = ladder.rotation({"position_embeddings": wide}, size, 16)
        assert all(torch.allclose(*both, atol=1e-6) for both in zip(found, wanted, strict=True))


# ---- what it computes ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_gates_mix_what_the_backbone_says_into_the_side(folder: Path) -> None:
    """With the side layers off, by zero ways out of theirs, the formula is a sum that can be written down."""
    model = moved(attached(folder, "lst", drop_layers=(1,), add=False))
    side, base = network_of(model), load(folder)
    for block in side.blocks:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    states: list[torch.Tensor] = []
    for layer in base.model.layers:
        layer.register_forward_hook(lambda part, given, output: states.append(output))
    base(input_ids=IDS)
    stream = side.first(base.model.embed_tokens(IDS))
    for place, number in enumerate((0, 2)):
        gate = 1 / (1 + torch.exp(-side.gates_L[number] / 0.1))
        stream = gate * stream + (1 - gate) * side.downs[place](states[number])
    wanted = base.lm_head(side.up(side.norm(stream)))
    assert torch.allclose(model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_families_generate_with_a_cache_as_without(kind: type[Any]) -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 16}
    windows = {} if kind in (Qwen2Config, Qwen3Config) else {"sliding_window": 6}
    torch.manual_seed(5)
    config = kind(**sizes, num_attention_heads=4, num_key_value_heads=2, eos_token_id=None, **windows)
    base = AutoModelForCausalLM.from_config(config).eval()
    for parameter in base.parameters():
        parameter.data.mul_(4.0)
    with torch.no_grad():
        before = base(input_ids=IDS).logits
    model = lst.attach(base, lst.Config(r=4)).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, before)
    moved(model, 0.3)
    asked = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 8, "pad_token_id": 0}
    with_cache, without = (model.generate(**asked, do_sample=False, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)


def test_it_keeps_less_than_half_of_what_lora_does(folder: Path) -> None:
    lora = get_peft_model(load(folder), LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert saved_bytes(attached(folder, "lst"), IDS) < saved_bytes(lora, IDS) / 2


def test_it_learns_a_batch_by_heart(folder: Path) -> None:
    model = attached(folder, "lst", r=4).train()
    optimizer = torch.optim.Adam(trainable(model).values(), lr=1e-2)
    for _ in range(80):
        loss = model(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_gradients_are_those_of_finite_differences(folder: Path) -> None:
    model = moved(attached(folder, "lst")).double()
    side = network_of(model)

    def loss() -> torch.Tensor:
        with torch.enable_grad():
            return model.get_base_model().model(input_ids=IDS).last_hidden_state.sin().sum()

    tried = (
        side.gates_L,
        side.first.weight,
        side.downs[1].bias,
        side.blocks[1].self_attn.q_proj.weight,
        side.norm.weight,
    )
    slopes = torch.autograd.grad(loss(), tried)
    for item, slope in zip(tried, slopes, strict=True):
        place = int(slope.abs().argmax())
        flat = item.data.view(-1)
        values = []
        for step in (1e-3, -1e-3):
            flat[place] += step
            values.append(float(loss()))
            flat[place] -= step
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(
            float(slope.view(-1)[place]), rel=1e-2
        )  # norms are in fp32


# ---- encoder-decoders ------------------------------------------------------------------------------------------------


def test_a_t5_begins_as_it_was_trains_and_generates() -> None:
    base = tiny_t5()
    draw = torch.Generator().manual_seed(1)
    ids, labels = (torch.randint(1, 64, (2, length), generator=draw) for length in (7, 5))
    with torch.no_grad():
        before = base(input_ids=ids, labels=labels).logits
    model = lst.attach(base, lst.Config(r=4, drop_layers=(0,))).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, labels=labels).logits, before)
    moved(model, 0.3).train()(input_ids=ids, labels=labels).loss.backward()
    assert all((item.grad is not None) == item.requires_grad for item in model.parameters())
    model.eval()
    asked = {"input_ids": ids, "max_new_tokens": 6, "do_sample": False}
    for beams in (1, 3):
        with_cache, without = (model.generate(**asked, num_beams=beams, use_cache=use) for use in (True, False))
        assert torch.equal(with_cache, without)
    other = model.get_base_model().encoder(input_ids=ids)
    model(input_ids=ids + 1 - ids // 63, labels=labels)
    with pytest.raises(Unsupported, match="an encoding that its ladder did not see"):
        model(encoder_outputs=other, labels=labels)
