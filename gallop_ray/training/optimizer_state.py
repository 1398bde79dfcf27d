"""The state of an optimizer that DeepSpeed has split over the ranks, read and written as complete vectors.

The vectors do not depend on ZeRO stage or number of ranks: what one setup has written, another can read. DeepSpeed
keeps flat float32 tensors (at stage 0 the trained parameters themselves); each parameter, or the part of it that this
rank steps, is a piece of one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gallop_ray.compat.deepspeed import partition_of, shard_of
from gallop_ray.sparse.optimizers import MASTER, Handle, State, Stepped
from gallop_ray.sparse.weights import collective_device, full_shape, is_split, rank, world_size, write_all


@dataclass(frozen=True)
class _Piece:
    """Entries start ... start + size of parameter `number`, at offset `at` of the flat tensor; `room` has padding."""

    number: int
    flat: Tensor
    at: int
    start: int
    size: int
    room: int


@dataclass(frozen=True)
class OptimizerState:
    """Reads and writes the state of the optimizer of a DeepSpeed engine.

    engine: the engine, after initialize. parameters: what it trains, in the order of the vectors.
    """

    engine: Any
    parameters: Sequence[nn.Parameter]

    @property
    def _inner(self) -> torch.optim.Optimizer:
        # At stage 0 DeepSpeed hands back the optimizer itself; at the others it wraps it.
        optimizer: torch.optim.Optimizer = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        return optimizer

    @property
    def _stage(self) -> int:
        return int(self.engine.zero_optimization_stage())

    def _piece(self, number: int) -> _Piece | None:
        find = {0: _whole, 1: _in_partition, 2: _in_partition, 3: _in_shard}[self._stage]
        return find(self.engine.optimizer, self.parameters[number], number)

    def _pieces(self) -> Iterator[_Piece]:
        yield from filter(None, map(self._piece, range(len(self.parameters))))

    @torch.no_grad()
    def clear_padding(self) -> None:
        """Zero the padding of ZeRO-3's shards: it is uninitialized, and an optimizer that takes norms would read it."""
        for p in self._pieces():
            p.flat.detach().view(-1)[p.at + p.size : p.at + p.room] = 0

    def read(self) -> tuple[State, dict[str, Tensor]]:
        """The vectors by key, and what the optimizer keeps once for all entries (its step). Collective."""
        pieces, kept = list(self._pieces()), self._inner.state
        known: dict[str, Any] = next(iter(kept.values()), {})
        keys = [k for k, v in known.items() if isinstance(v, Tensor) and v.ndim]
        shared = {k: torch.as_tensor(v).clone() for k, v in known.items() if k not in keys and v is not None}
        state = {MASTER: self._gather(pieces, lambda flat: flat)}
        state |= {key: self._gather(pieces, lambda flat, key=key: kept[flat][key]) for key in keys}  # type: ignore[misc]
        return state, shared

    def master(self, number: int) -> Tensor:
        """The float32 values (k,) of one parameter, by its number, on every rank. Collective.

        As `read` has them, without the memory for those of all parameters.
        """
        bits = torch.zeros(full_shape(self.parameters[number]).numel(), dtype=torch.int32, device=collective_device())
        if (p := self._piece(number)) is not None:
            part = p.flat.detach().reshape(-1)[p.at : p.at + p.size].float()
            bits[p.start : p.start + p.size] = part.to(bits.device).view(torch.int32)
        if self._stage and world_size() > 1:
            dist.all_reduce(bits)
        return bits.view(torch.float32)

    def _gather(self, pieces: Sequence[_Piece], tensor: Callable[[Tensor], Tensor]) -> list[Tensor]:
        sizes = [full_shape(p).numel() for p in self.parameters]
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        # Bits, not values, are summed: adding 0.0 from the other ranks would turn -0.0 into 0.0.
        bits = torch.zeros(sum(sizes), dtype=torch.int32, device=collective_device())
        for p in pieces:
            part = tensor(p.flat).detach().reshape(-1)[p.at : p.at + p.size].float()
            bits[starts[p.number] + p.start :][: p.size] = part.to(bits.device).view(torch.int32)
        if self._stage and world_size() > 1:  # at stage 0 every rank has filled in all of it
            dist.all_reduce(bits)
        return [v.clone() for v in bits.view(torch.float32).split(sizes)]

    @torch.no_grad()
    def pull(self, targets: Sequence[Tensor], share: float) -> None:
        """Move the float32 values by `share` of the way to `targets`.

        targets: flat; complete vectors (k_m,), or under ZeRO-3 the shards that this rank stores.
        """
        for part in self.stepped(targets):
            own, (target,) = part.tensor.detach().view(-1)[part.at], part.of
            own.lerp_(target.to(own), share)

    def stepped(self, *vectors: Sequence[Tensor]) -> Iterator[Stepped]:
        """What this rank steps of each parameter, with that part of the vectors, which are as the targets of `pull`."""
        for p in self._pieces():
            whole = full_shape(self.parameters[p.number]).numel()
            starts = [p.start if each[p.number].numel() == whole else 0 for each in vectors]
            of = [each[p.number][start : start + p.size] for each, start in zip(vectors, starts, strict=True)]
            yield Stepped(p.flat, slice(p.at, p.at + p.size), of)

    def before_step(self, hook: Callable[..., None]) -> Handle:
        """Call `hook` with the optimizer, and more, before each of its steps: once for each tensor or group of them."""
        return self._inner.register_step_pre_hook(hook)

    @torch.no_grad()
    def clear(self, entries: Mapping[int, Tensor]) -> None:
        """Set entries of parameters to 0; not under ZeRO-3. entries: by number, bool (k,), the same on every rank."""
        assert self._stage < 3, "each rank writes into whole parameters"
        for number, chosen in entries.items():
            parameter = self.parameters[number]
            parameter.detach().view(-1)[chosen.to(parameter.device)] = 0
            if (p := self._piece(number)) is not None:
                part = chosen[p.start : p.start + p.size]
                p.flat.detach().view(-1)[p.at : p.at + p.size][part.to(p.flat.device)] = 0

    @torch.no_grad()
    def write(self, state: State, shared: Mapping[str, Tensor]) -> None:
        """Replace the optimizer's vectors, and write the rounded values into the parameters."""
        kept, options = self._inner.state, self._inner.param_groups[0]
        counts_there = options.get("fused") or options.get("capturable")  # torch counts steps on the CPU otherwise
        for p in self._pieces():
            for key, vectors in state.items():
                if key != MASTER and key not in kept[p.flat]:  # a new optimizer has no state before its first step
                    kept[p.flat][key] = torch.zeros_like(p.flat, dtype=torch.float32)
                whole = p.flat if key == MASTER else kept[p.flat][key]
                target = whole.detach().view(-1)[p.at : p.at + p.size]
                target.copy_(vectors[p.number][p.start : p.start + p.size])
            # Cloned for each: torch counts `step` up in place, and a shared one would be counted once per parameter.
            kept[p.flat] |= {k: v.to(p.flat.device if counts_there else v.device, copy=True) for k, v in shared.items()}
        for parameter, values in zip(self.parameters, state[MASTER], strict=True):
            write_all(parameter, values)


def _whole(optimizer: Any, parameter: nn.Parameter, number: int) -> _Piece:
    return _Piece(number, parameter, 0, 0, parameter.numel(), parameter.numel())


def _in_partition(optimizer: Any, parameter: nn.Parameter, number: int) -> _Piece | None:
    part = partition_of(optimizer, parameter)
    return None if part is None else _Piece(number, part.flat, part.at, part.start, part.size, part.size)


def _in_shard(optimizer: Any, parameter: nn.Parameter, number: int) -> _Piece:
    assert is_split(parameter)
    flat, at, room = shard_of(optimizer, parameter)
    whole = full_shape(parameter).numel()
    start = min(rank() * room, whole)
    return _Piece(number, flat, at, start, min(room, whole - start), room)
