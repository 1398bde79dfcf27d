"""Read and write weights that DeepSpeed ZeRO-3 may have split over the ranks.

ZeRO-3 leaves each rank a flat shard, `parameter.ds_tensor`, of a parameter of shape `parameter.ds_shape`; shard r
starts at entry r * shard size (the last shards may be padded). DeepSpeed itself is not needed. For callers, one rank or
an unsplit parameter is not a special case.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def collective_device() -> torch.device:
    """Where tensors must live for collectives: the GPU under NCCL, else the CPU."""
    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def is_split(parameter: Tensor) -> bool:
    """Whether ZeRO-3 keeps only a shard of this parameter on each rank."""
    return hasattr(parameter, "ds_tensor")


def full_shape(parameter: Tensor) -> torch.Size:
    """The shape of the whole parameter, split or not."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def local(parameter: Tensor) -> Tensor:
    """The entries that this rank stores, flat: its shard, or all of them."""
    stored: Tensor = getattr(parameter, "ds_tensor", parameter)
    return stored.detach().view(-1)


def sum_over_ranks(counts: Tensor) -> Tensor:
    """Sum `counts` over the ranks, in place. Collective."""
    if world_size() > 1:
        dist.all_reduce(counts)
    return counts


def all_ranks(yes: bool) -> bool:
    """Whether `yes` is true on all ranks. Collective."""
    return int(sum_over_ranks(torch.tensor(int(yes), device=collective_device()))) == world_size()


@contextmanager
def in_any_order() -> Iterator[None]:
    """Context manager: writes to places that all differ, whose order changes nothing.

    Where torch's kernels are to be deterministic, a GPU sorts the places of every such write.
    """
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=only_warns)


def _local_range(parameter: Tensor) -> tuple[int, int]:
    stored = local(parameter).numel()
    start = rank() * stored if is_split(parameter) else 0
    return start, start + stored


def gather_all(parameters: Sequence[Tensor], stored: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Each complete parameter, flat, on every rank, in one collective. The parameters share one dtype.

    stored: copies of what `local` returned earlier, to be gathered instead of the present values.
    An unsplit parameter is returned as a view of itself, so do not write into the result.
    """
    if not parameters or not is_split(parameters[0]):
        return list(stored or map(local, parameters))
    shards = list(stored or map(local, parameters))
    mine = torch.cat(shards).to(collective_device())  # offloaded shards are in host memory, which NCCL cannot send
    everyone = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(everyone, mine)
    per_rank = [part.split([s.numel() for s in shards]) for part in everyone]
    return [
        torch.cat(pieces)[: math.prod(full_shape(p))]
        for p, pieces in zip(parameters, zip(*per_rank, strict=True), strict=True)
    ]


def gather(parameter: Tensor) -> Tensor:
    """The complete parameter in its shape, on every rank. Do not write into the result."""
    return gather_all([parameter])[0].view(full_shape(parameter))


def read_entries(parameter: Tensor, indices: Tensor) -> Tensor:
    """The entries at flat `indices` (k,), bit for bit, on every rank, and on the device of the indices."""
    stored = local(parameter)
    if not is_split(parameter):
        return stored[indices]
    start, end = _local_range(parameter)
    places = indices.to(stored.device)  # an offloaded shard is in host memory
    mine = (places >= start) & (places < end)
    # Bits, not values, are summed: adding 0.0 from the other ranks would turn -0.0 into 0.0. As int32, because neither
    # gloo nor NCCL reduces int16.
    bits = torch.zeros(indices.numel(), dtype=torch.int32, device=stored.device)
    bits[mine] = stored[places[mine] - start].view(_BITS[stored.dtype]).to(torch.int32)
    summed = bits.to(collective_device())  # NCCL cannot reduce what is in host memory
    dist.all_reduce(summed)
    return summed.to(indices.device, _BITS[stored.dtype]).view(stored.dtype)


@torch.no_grad()
def write_entries(parameter: Tensor, indices: Tensor, values: Tensor) -> None:
    """Write `values` (k,) at flat `indices` (k,) in place; under ZeRO-3 each rank writes into its own shard."""
    stored = local(parameter)
    places, values = indices.to(stored.device), values.to(stored)
    if not is_split(parameter):
        stored[places] = values
        return
    start, end = _local_range(parameter)
    mine = (places >= start) & (places < end)
    stored[places[mine] - start] = values[mine]


def own_part(parameter: Tensor, whole: Tensor) -> Tensor:
    """Of a complete flat tensor with the parameter's entries those that this rank stores, without padding."""
    start, end = _local_range(parameter)
    return whole[start:end]


@torch.no_grad()
def write_all(parameter: Tensor, values: Tensor) -> None:
    """Write the complete parameter from `values`, flat; under ZeRO-3 each rank writes its own shard."""
    stored = local(parameter)
    mine = own_part(parameter, values).to(stored)
    stored[: mine.numel()] = mine
