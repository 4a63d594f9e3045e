"""How PEFT puts layers of `layer.py` into a model, switches them, and answers a mixed batch with them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from sartor.adapters.guards import heads_of, task_of
from sartor.adapters.wrapping.layer import BASE, Bottleneck, TunedNorm, Wrapping


@dataclass
class WrappingConfig(PeftConfig):  # type: ignore[misc]
    """`target_modules`: a pattern of `places.targets`; the norms among them are tuned themselves.

    `modules_to_save`: the heads of a classifier, which PEFT copies, trains and saves.
    """

    target_modules: str = ""
    modules_to_save: list[str] | None = None


@dataclass
class BottleneckConfig(WrappingConfig):
    """What all bottlenecks have: `size` is their width, `place` where they stand (`places.Place`)."""

    size: int = 64
    place: str = "both"
    activation: str = "gelu"
    scale: float = 1.0


class WrappingTuner(BaseTuner):  # type: ignore[misc]
    """A family says which layer it is, and of what parts a new adapter is made."""

    tuner_layer_cls = Wrapping
    layer: type[Wrapping] = Bottleneck

    @abstractmethod
    def parts(self, config: Any, adapter: str, width: int) -> Sequence[nn.Module]:
        """The parts of a new adapter at a module of some width, in fp32 and in the order of the layer's containers."""

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, Wrapping) else self._around(target)
        if isinstance(layer, TunedNorm):
            parts: Sequence[nn.Module] = layer.copied()
        else:
            with _device_of(layer.base_layer, self.model):
                parts = self.parts(peft_config, adapter_name, self.width_at(layer.base_layer))
        layer.add(adapter_name, peft_config, parts)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def width_at(self, module: nn.Module) -> int:
        """The width of what a module gives: that of the stream."""
        return int(self.model.config.get_text_config().hidden_size)

    def _around(self, target: nn.Module) -> Wrapping:
        return TunedNorm(target) if type(target).__name__.endswith("Norm") else self.layer(target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """PEFT's own takes a module to have a weight, which a whole sublayer has not."""
        parent.add_module(child_name, new_module)

    def _check_new_adapter_config(self, config: Any) -> None:
        """Around a module that stands in a wrapped one, or the reverse, PEFT finds no name: it would leave it out.

        Raises:
            ValueError: the adapters of one model stand in different places.
        """
        super()._check_new_adapter_config(config)
        places = {item.target_modules for item in self.peft_config.values()}
        if len(places) > 1:
            raise ValueError(f"adapters of one model must stand in the same places, not in {sorted(places)}")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT's own place for a mixed batch: `adapter_names` names the adapter of each row.

        Raises:
            ValueError: in training, or a name is not known.
        """
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("`adapter_names` is for inference: call model.eval()")
        unknown = set(names) - self.peft_config.keys() - {BASE}
        if unknown:
            raise ValueError(f"`adapter_names` has {sorted(unknown)}; there are {[*self.peft_config, BASE]}")
        layers = [module for module in self.modules() if isinstance(module, Wrapping | AuxiliaryTrainingWrapper)]
        hooks = [
            layer.register_forward_pre_hook(
                lambda module, given, named: (given, {**named, "adapter_names": names}), with_kwargs=True
            )
            for layer in layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _device_of(*modules: nn.Module) -> torch.device:
    """Of the first that has tensors: a quantised layer may have none that torch knows."""
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    return next(tensors).device


def attached(model: Any, config: WrappingConfig) -> Any:
    """The model as a PEFT model of its kind, with a new adapter."""
    config.task_type, config.modules_to_save = task_of(model), heads_of(model)
    return get_peft_model(model, config, autocast_adapter_dtype=True)
