"""A base model with what earlier stages of a sequence have trained in its weights, for the duration of a stage."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gallop_ray.errors import BaseChanged
from gallop_ray.sparse.base_state import BaseState, base_hash
from gallop_ray.sparse.weights import all_ranks, collective_device, full_shape, rank, world_size, write_all
from gallop_ray.training.base_guard import put_back
from gallop_ray.training.merged import merged
from gallop_ray.training.resident import LoadedModel


@contextmanager
def moved(resident: LoadedModel, adapters: Sequence[Path]) -> Iterator[LoadedModel]:
    """Context manager: the model with these adapters in it, in this order, is the base of what runs inside. Collective.

    It has a hash of its own, by which scores and adapters know it. On exit the base model is as it was; where it cannot
    be restored, BaseChanged is raised. Raises ValueError, on every rank, for an adapter that is damaged or of another
    base.
    """
    if not adapters:
        yield resident
        return
    try:
        identity = _write(resident, adapters)
        # Without `load`: there is no copy on disk to restore this base from, so a run that spoils it ends the workers.
        own: dict[str, Any] = {"magnitudes": {}, "fisher": {}, "of_base": {}}
        yield replace(resident, base_hash=identity, at_rest=BaseState(resident.model), load=None, **own)
    except Exception as error:
        # Nothing collective here: this rank may be the only one that failed.
        if put_back(resident):
            raise BaseChanged(f"the base model cannot be restored after: {error}", restored=False) from error
        raise
    if not all_ranks(not put_back(resident)):
        raise BaseChanged("the base model cannot be restored after a stage of a sequence", restored=False)


@torch.no_grad()
def _write(resident: LoadedModel, adapters: Sequence[Path]) -> str:
    """Write the moved weights into the model; their hash.

    Rank 0 makes them: other nodes need not see its disk, and merging a tuner could round otherwise on their processors.
    """
    whole: Any = None
    said: list[Any] = [None, None]
    if rank() == 0:
        assert resident.load is not None, "a sequence needs a model that can be loaded again"
        try:
            whole = merged(resident.load(), adapters)
            said[0] = base_hash(whole)
        except Exception as error:
            said[1] = error
    if world_size() > 1:
        dist.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise said[1]
    source = {} if whole is None else dict(whole.named_parameters())
    for name, parameter in resident.model.named_parameters():
        shape, device = full_shape(parameter), collective_device()
        value = source[name].to(device) if source else torch.empty(shape, dtype=parameter.dtype, device=device)
        if world_size() > 1:
            dist.broadcast(value, src=0)
        write_all(parameter, value.reshape(-1))
    return str(said[0])
