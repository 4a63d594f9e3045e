"""Tiny random models of the families that are fused: with our layers, with PEFT's own, and what both give.

Shapes: T tokens · D width of the stream.
"""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sartor.adapters import lora
from sartor.ops import attention, fuse
from sartor.ops.forest_attention import separate
from sartor.ops.fuse import Fusion

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
#: Family -> what it has beyond Llama. Windows are shorter than the longest segment.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {},
    "Mistral": {"sliding_window": 24},
    "Phi3": {},
    "Gemma": {},
    "Gemma3": {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
}
LENGTHS = (20, 45, 5)
OFFSETS = torch.tensor([0, 20, 65, 70], dtype=torch.int32)
POSITIONS_T = torch.cat([torch.arange(length) for length in LENGTHS])
TOKENS_T = torch.randint(5, 200, (70,), generator=torch.Generator().manual_seed(1))
SLOPES_TD = torch.randn(70, 64, generator=torch.Generator().manual_seed(2))
PROBE = (7, 5, 9)
Result = tuple[torch.Tensor, dict[str, torch.Tensor]]


def model_of(family: str, *, rounded: bool = False, attend: str = "eager", scale: float = 3.0, **changes: Any) -> Any:
    """A tiny random model in fp32; `rounded`: of weights that bf16 can hold."""
    import transformers

    kind: Any = operator.attrgetter("Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(transformers)
    torch.manual_seed(0)
    config = kind(**{**SIZES, **FAMILIES.get(family, {}), **changes})
    attention.register()
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attend)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data += torch.randn_like(weight) * 0.2
        elif weight.dim() > 1:
            weight.data *= scale  # random weights of 0.02 let all heads look everywhere alike
        else:
            weight.data = torch.randn_like(weight) * 0.3  # biases are made as zeros
        if rounded:
            weight.data = weight.data.bfloat16().float()
    return model


def wake(model: Any) -> Any:
    """Adapters that were trained for a while: at B = 0 half of the gradients vanish."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data + torch.randn(weight.shape, generator=generator) * 0.05
    return model


def ours(family: str, dtype: torch.dtype = torch.float32, *, r: int = 4, **changes: Any) -> Any:
    model = model_of(family, rounded=dtype == torch.bfloat16, attend=attention.NAME, **changes).to(dtype)
    for module in model.model.modules():
        if type(module).__name__.endswith("RMSNorm"):  # as the backend does: rounded once, where products read it
            module.register_forward_hook(lambda norm, inputs, output: output.to(dtype))
    return wake(lora.attach(model, lora.Config(r=r)))


def stock(family: str, *, rounded: bool = False, r: int = 4, **changes: Any) -> Any:
    """PEFT's own layers in fp32."""
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", task_type="CAUSAL_LM")
    return wake(get_peft_model(model_of(family, rounded=rounded, **changes), config))


def base_of(model: Any) -> Any:
    """The causal language model, with its adapters in place if it has some."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    found = {name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None}
    model.zero_grad()
    return found


def plain(model: Any) -> Result:
    """Each segment by itself through transformers' own forward."""
    decoder, outputs = base_of(model).model, []
    for start, end in pairwise(OFFSETS.tolist()):
        hidden_TD = decoder(input_ids=TOKENS_T[None, start:end]).last_hidden_state[0]
        (hidden_TD * SLOPES_TD[start:end]).sum().backward()
        outputs.append(hidden_TD.detach())
    return torch.cat(outputs), gradients_of(model)


def decode(model: Any, tokens_T: torch.Tensor, positions_T: torch.Tensor, **segments: Any) -> torch.Tensor:
    """Last hidden states (T, D) of a packed batch, with an fp32 stream."""
    base = base_of(model)
    embedded_1TD = base.get_input_embeddings()(tokens_T)[None].float()
    hidden_1TD: torch.Tensor = base.base_model(
        inputs_embeds=embedded_1TD, position_ids=positions_T[None], attention_mask=None, use_cache=False, **segments
    ).last_hidden_state
    return hidden_1TD[0]


def fused(model: Any, *, dtype: torch.dtype = torch.float32, **settings: Any) -> Fusion:

    @torch.no_grad()
    def probe() -> torch.Tensor:
        offsets = torch.tensor([0, 7, 12, 21], dtype=torch.int32)
        positions_T = torch.cat([torch.arange(length) for length in PROBE])
        return decode(model, TOKENS_T[:21], positions_T, cu_seq_lens_q=offsets, forest=separate(offsets))

    return fuse.fuse(base_of(model).base_model, probe, dtype=dtype, **settings)


def run(model: Any, **more: Any) -> Result:
    """The packed batch through fused layers."""
    hidden_TD = decode(model, TOKENS_T, POSITIONS_T, forest=separate(OFFSETS), **more)
    (hidden_TD.float() * SLOPES_TD[more.get("rows", slice(None))]).sum().backward()
    return hidden_TD.detach(), gradients_of(model)


def joined(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].double().flatten() for name in sorted(gradients)])


def same_bits(found: Result, wanted: Result) -> bool:
    return torch.equal(found[0], wanted[0]) and torch.equal(joined(found[1]), joined(wanted[1]))
