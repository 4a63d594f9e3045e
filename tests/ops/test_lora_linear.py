"""The augmented LoRA product against PEFT's own forward, in fp32 and, for its rounding, in bf16."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from sartor.ops.lora_linear import AugmentedLoraLinear, prepare


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 40, bias=True)
        self.second = nn.Linear(40, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def tuned(dtype: torch.dtype, *, ours: bool, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], lora_dropout=dropout)
    if ours:
        config._register_custom_module({nn.Linear: AugmentedLoraLinear})
    model = get_peft_model(TwoLayers().to(dtype), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    if ours:
        assert len(prepare(model)) == 2
    return model.train()


def run(model: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
    output = model(x)
    (output.float() ** 2).sum().backward()
    assert x.grad is not None
    gradients = {name: item.grad for name, item in model.named_parameters() if item.grad is not None}
    return output.detach(), {**gradients, "x": x.grad}


def test_output_and_gradients_equal_pefts() -> None:
    output, gradients = run(tuned(torch.float32, ours=True), torch.float32)
    wanted, wanted_gradients = run(tuned(torch.float32, ours=False), torch.float32)
    torch.testing.assert_close(output, wanted)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5)


def test_in_bf16_output_and_gradients_stay_near_fp32() -> None:
    exact, wanted = run(tuned(torch.float32, ours=False), torch.float32)
    ours, gradients = run(tuned(torch.bfloat16, ours=True), torch.bfloat16)
    assert float((ours.float() - exact).norm() / exact.norm()) < 0.02
    for name, gradient in wanted.items():
        assert float(torch.cosine_similarity(gradients[name].float().flatten(), gradient.flatten(), dim=0)) > 0.999


def test_refresh_carries_an_update_of_the_masters() -> None:
    model = tuned(torch.float32, ours=True)
    before, _ = run(model, torch.float32)
    layers = [layer for layer in model.modules() if isinstance(layer, AugmentedLoraLinear)]
    with torch.no_grad():
        for layer in layers:
            layer.lora_B["default"].weight.zero_()
    for layer in layers:
        layer.refresh()
    after, _ = run(model, torch.float32)
    with model.disable_adapter():  # type: ignore[operator]
        base, _ = run(model, torch.float32)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, base)


def test_dropout_takes_pefts_own_forward() -> None:
    model = tuned(torch.float32, ours=True, dropout=0.5)
    torch.manual_seed(1)
    first, _ = run(model, torch.float32)
    second, _ = run(model, torch.float32)
    assert not torch.equal(first, second)
    model.eval()
    quiet, _ = run(model, torch.float32)
    plain, _ = run(tuned(torch.float32, ours=False), torch.float32)
    torch.testing.assert_close(quiet, plain)


def test_no_tokens_are_no_work() -> None:
    model = tuned(torch.float32, ours=True)
    x = torch.empty(0, 5, 24, requires_grad=True)
    output = model(x)
    assert output.shape == (0, 5, 16)
    output.sum().backward()
    assert x.grad is not None
    assert not any(item.grad.any() for name, item in model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("ours", [True, False])
def test_the_saved_adapter_has_pefts_names(ours: bool, tmp_path: object) -> None:
    from peft import get_peft_model_state_dict

    names = sorted(get_peft_model_state_dict(tuned(torch.float32, ours=ours)))
    assert names == sorted(
        f"base_model.model.{layer}.lora_{part}.weight" for layer in ("first", "second") for part in "AB"
    )
