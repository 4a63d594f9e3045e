"""Several processes under torchrun, by torch.distributed: the torch backend, with a rank in each.

Two ways to hold the model. Replicated: every rank has the whole frozen base, and only the small gradients of the
adapter travel; simple and fastest where it fits. Sharded (FSDP2): each decoder layer is cut into one part per rank and
gathered when it is needed; for full fine-tuning, and for bases that are too large for one rank. Adapters are never cut.

Scalars, words and CPU tensors travel by gloo, GPU tensors by NCCL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from sartor.backends.placement import Policy, device_of, layers_of
from sartor.backends.ranks import Place, fits_each, here
from sartor.backends.torch import TorchBackend
from sartor.errors import MachineError
from sartor.hardware import look
from sartor.plan import Plan
from sartor.types import Batch

#: Longer than any step, evaluation or save: all wait for rank 0's disk, and the state of a large model is hundreds
#: of gigabytes, hashed as well. A rank that dies is not waited for: torchrun ends the others at once.
PATIENCE = timedelta(hours=6)


class Together:
    """See `ranks.Ranks`. `shard` decides what is sharded; left out, the size of the base does."""

    def __init__(self, *, shard: bool | None = None) -> None:
        self.place = here()
        self._device = device_of(self.place)
        self._shard = shard
        _join(self.place, self._device)

    def settle(self, policy: Policy, *, trains: str) -> bool:
        shard = self._shard
        if shard is None:
            # Where one rank has too little memory for the whole base, all shard.
            shard = trains == "model" or self.sum(not fits(policy, self.place, self._device)) > 0
        if not shard:
            policy.to(self._device)
            return True
        shard_policy(policy, self._device, self.place.size, trains=trains)
        return False

    def sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        with _waiting():
            dist.all_reduce(total)
        return float(total)

    def reduce(self, gradients: Sequence[torch.Tensor]) -> None:
        """One message for all: an adapter has hundreds of small gradients. Sharded ones are summed already."""
        own = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
        if not own:
            return
        joined = torch.cat([gradient.flatten() for gradient in own])
        with _waiting():
            dist.all_reduce(joined)
        parts = torch.split(joined, [gradient.numel() for gradient in own])
        for gradient, part in zip(own, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def join(self, words: Sequence[str]) -> list[str]:
        found: list[list[str]] = [[] for _ in range(self.place.size)]
        with _waiting():
            dist.all_gather_object(found, list(words))
        return [word for part in found for word in part]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.place.size)]
        with _waiting():
            dist.all_gather(found, tensor)
        return found

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        with _waiting():
            return tensor.full_tensor()

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if not isinstance(like, DTensor) or whole.shape != like.shape:  # a step count is whole everywhere
            return whole
        whole = whole.to(like.device)
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def fits(policy: Policy, place: Place, device: torch.device) -> bool:
    """Whether the whole base leaves this rank enough memory."""
    size = sum(item.numel() * item.element_size() for item in policy.parameters())
    if device.type == "cuda":
        return fits_each(size, torch.cuda.get_device_properties(device).total_memory)
    return fits_each(size, look(Path()).memory_bytes / place.local_size)


def shard_policy(policy: Policy, device: torch.device, size: int, *, trains: str) -> None:
    """Cut every decoder layer, and what is outside of them, into one part per rank (FSDP2).

    Trained weights of the model are fp32 masters, gathered and multiplied in the model's own type; their gradients are
    summed, not averaged, in fp32. Adapters stay whole.
    """
    dtype = next(policy.parameters()).dtype
    adapters = {item for item in policy.parameters() if item.requires_grad} if trains == "adapter" else set()
    for item in adapters:
        item.data = item.data.to(device)
    mesh = init_device_mesh(device.type, (size,))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in (*layers_of(policy.model), policy):
        for item in layer.parameters():  # a layer at a time: in fp32 all of them take twice the model's memory
            if item.requires_grad and item.dtype != torch.float32:
                item.data = item.data.float()
        # The outermost part would stay gathered after a forward without a backward, and miss what `load` changes.
        fully_shard(layer, mesh=mesh, mp_policy=precision, ignored_params=adapters, reshard_after_forward=True)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo multiplies nothing on the way
    for name in ("hidden", "own_logits"):
        register_fsdp_forward_method(policy, name)


def open_backend(plan: Plan, examples: Sequence[Batch] = ()) -> TorchBackend:
    """The torch backend with a rank in each process that torchrun started; alone in any other process.

    Raises:
        MachineError: the ranks were given different plans.
    """
    ranks = Together()
    if len(set(ranks.join([f"{plan.digest} {plan.save_every}"]))) != 1:  # all of them gather for a save
        raise MachineError("the ranks read different plans", hint="give them one file system, and start them at once")
    return TorchBackend(plan, ranks, examples)


def _join(place: Place, device: torch.device) -> None:
    """Meet the other ranks, once for each process."""
    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _waiting():
        if place.size == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=PATIENCE)
        else:
            dist.init_process_group(backend, timeout=PATIENCE)


@contextmanager
def _waiting() -> Iterator[None]:
    """Say plainly what the end of another rank looks like from here."""
    try:
        yield
    except torch.OutOfMemoryError:  # our own
        raise
    except RuntimeError as error:  # gloo raises no class of its own
        raise MachineError(
            f"another rank has left, or has not answered for {PATIENCE.seconds // 3600} hours ({error})",
            hint="its own error says why; start the same command again: it goes on from the newest checkpoint",
        ) from error


def leave() -> None:
    """Part from the other ranks when all are ready to, where that is still possible.

    The first to end after a stop has torchrun end the others: a checkpoint that rank 0 still writes would be lost.
    """
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.all_reduce(torch.zeros(1))
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
