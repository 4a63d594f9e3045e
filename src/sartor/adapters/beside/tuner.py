"""How a network comes to stand at a decoder's final norm, and how PEFT makes, switches, saves and loads it.

The final norm is the one module that every forward runs last, `generate`'s among them, so the network stands there,
around the norm. Hooks on the decoder and its layers bring to it what they leave, cut off from the graph: no gradient
enters the backbone, and nothing of it is kept for a backward.

Shapes: B rows · T tokens · N wanted tokens · D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from sartor.adapters.beside.reading import Call, Reading, Tensor, layers_of
from sartor.errors import RecipeError, Unsupported


class Beside(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """The final norm of a decoder, and the networks that stand in its place while they are active.

    A network is called with a `Reading` and the norm, and gives the normalised states of the wanted tokens. `ATTENDS`
    says whether it computes attention of its own, as transformers does.
    """

    adapter_layer_names = ("beside",)
    active_adapters: list[str]  # PEFT's
    base_layer: Any
    beside: Any  # a ModuleDict
    set_adapter: Any  # PEFT's

    def __init__(self, norm: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.base_layer = norm
        self.beside = nn.ModuleDict()
        self._active_adapter: list[str] = []
        self._reading: Reading | None = None
        self._hooked: list[tuple[nn.Module, Any]] = []
        self._begun = decoder.register_forward_pre_hook(self._begin, with_kwargs=True)

    def add(self, adapter_name: str, network: nn.Module) -> None:
        """Put a network in place; the first is active."""
        self.beside[adapter_name] = network
        self.set_adapter(self.active_adapters or [adapter_name])

    @property
    def network(self) -> Any:
        """The one that is active; None when none is.

        Raises:
            Unsupported: there are several.
        """
        names = [name for name in self.active_adapters if name in self.beside]
        if self.disable_adapters or not names:
            return None
        if len(names) > 1:
            raise Unsupported(f"{len(names)} networks beside one backbone at a time", hint="activate one of them")
        return self.beside[names[0]]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """The normalised states (B, N, D) of the wanted tokens."""
        reading, self._reading = self._reading, None
        network = self.network
        if reading is None or (network is not None and not reading.states):
            raise Unsupported("a final norm that is called without its decoder", hint="call the model as a whole")
        if network is None:
            return reading.wanted(self.base_layer(hidden_BTD))
        result_BND: Tensor = network(reading, self.base_layer)
        return result_BND

    def unload_and_optionally_merge_module(self, merge: bool, **others: Any) -> Any:
        """The norm alone, as it was. PEFT calls it.

        Raises:
            Unsupported: it is to be merged.
        """
        if merge:
            raise Unsupported("merging what works beside the backbone", hint="serve it with Sartor's engine")
        self._begun.remove()
        for _, handle in self._hooked:
            handle.remove()
        return self.base_layer

    def _begin(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before each forward. Fused layers come in the place of others later, so hooks follow what is there now.

        `rows` is kept from them: a layer that left out tokens would leave too little to read.
        """
        self._reading = Reading(rows=kwargs.get("rows"))
        layers = layers_of(decoder)
        if [layer for layer, _ in self._hooked] != layers:
            for _, handle in self._hooked:
                handle.remove()
            self._hooked = [(layer, layer.register_forward_hook(self._note, with_kwargs=True)) for layer in layers]
        return args, {key: value for key, value in kwargs.items() if key != "rows"}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _note(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        reading = self._reading
        if reading is None or self.network is None:
            return
        if not reading.states:
            reading.states.append(args[0].detach())
        reading.states.append((output[0] if isinstance(output, tuple) else output).detach())
        reading.calls.append(Call(args[1:], kwargs))


@dataclass
class BesideConfig(PeftConfig):  # type: ignore[misc]
    """What every such method writes into `adapter_config.json`. PEFT reads the first three of any method."""

    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None


class BesideModel(BaseTuner):  # type: ignore[misc]
    """PEFT's tuner of such methods. A subclass names its `prefix` and makes its network."""

    tuner_layer_cls = Beside
    target_module_mapping: Any = MappingProxyType({})  # `attach` names the norm

    def network(self, config: Any, decoder: Any, adapter_name: str) -> nn.Module:
        """A new network beside a decoder, in fp32, on its device."""
        raise NotImplementedError

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str
    ) -> None:
        network = self.network(peft_config, parent, adapter_name)
        if isinstance(target, Beside):
            target.add(adapter_name, network)
            return
        layer = Beside(target, parent)
        layer.add(adapter_name, network)
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """PEFT finds the name only in the last place but one; networks are deeper."""
        return key.replace(f".beside.{adapter_name}.", ".beside.", 1)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT calls it around each forward.

        Raises:
            Unsupported: each row asks for an adapter of its own, which PEFT would pass over.
        """
        if kwargs.get("adapter_names") is not None:
            raise Unsupported("another adapter in each row", hint="leave out `adapter_names`: one adapter at a time")
        yield


def attach(model: Any, peft_config: Any) -> Any:
    """The model as a PEFT model with a network at its final norm, or at those of both stacks; frozen base."""
    stacks = ["encoder.final_layer_norm", "decoder.final_layer_norm"]
    peft_config.target_modules = stacks if model.config.is_encoder_decoder else [f"{model.base_model_prefix}.norm"]
    return get_peft_model(model, peft_config)


def refuse_others(model: Any) -> None:
    """Raises:
    RecipeError: layers and norm are not where they are in Llama-like models.
    """
    parts = dict(model.base_model.named_children())
    if not {"layers", "norm"} <= parts.keys():
        raise RecipeError(
            f"{type(model).__name__} does not keep its layers and final norm as Llama does", hint="choose lora"
        )


def norm_of(model: Any) -> Beside:
    """The final norm of an attached decoder."""
    return next(part for part in model.modules() if isinstance(part, Beside))
