"""Checkpoints of a run: the trained values and the progress, not the model.

One safetensors file with the complete float32 vectors of the optimizer, so that any ZeRO stage and any number of ranks
can resume from it; and, for a mask method, the entries they belong to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from gallop_ray.disk.bucket.tree import present, share
from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.tensors import opened
from gallop_ray.sparse.checked import load_whole, save_checked
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.sparse.optimizers import State
from gallop_ray.sparse.weights import all_ranks, rank, world_size
from gallop_ray.training.optimizer_state import OptimizerState

_INTERIM = "interim"


@dataclass(frozen=True)
class Best:
    """The best step of a run so far: its value of the objective, and each trained parameter then, complete and flat."""

    step: int
    value: float
    values: list[Tensor]


@dataclass(frozen=True)
class Interim:
    """What the record of a paused run needs when it continues, to be that of a run without a pause.

    id: of this pause alone. unlogged: losses of the steps since the last log (ranks, n). since: seconds since then.
    seconds, peak_memory_bytes, started: as in result.json. scores: where a gradient method's scores came from.
    """

    id: str
    unlogged: Tensor
    since: float
    seconds: dict[str, float]
    peak_memory_bytes: int
    started: float
    scores: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` optimizer steps.

    state, shared: as OptimizerState reads them. random: by device, the random states of all ranks (ranks, n) uint8.
    mask: the entries trained at that moment, empty for other methods. touched: where the mask was refreshed, by matrix,
    all entries ever trained and their values. best: the best step, where it is kept and one was measured. interim: of
    a paused run. kept: what the attachment, or the mask's next selections, depend on beside the parameters (Keeping).
    """

    step: int
    loss: float
    state: State
    shared: dict[str, Tensor]
    random: dict[str, Tensor]
    mask: Mask
    touched: dict[str, tuple[Tensor, Tensor]]
    best: Best | None = None
    interim: Interim | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it atomically; rank 0 writes."""
        if rank() > 0:
            return
        tensors = {f"state.{key}": torch.cat(vectors).cpu() for key, vectors in self.state.items()}
        tensors["sizes"] = torch.tensor([v.numel() for v in next(iter(self.state.values()))])
        tensors |= {f"shared.{key}": value.cpu() for key, value in self.shared.items()}
        tensors |= {f"mask.{name}": indices.cpu() for name, indices in self.mask.indices.items()}
        for name, (indices, values) in self.touched.items():
            # Cloned: it may be the very tensor of `mask`, and safetensors refuses two names for one storage.
            tensors |= {f"touched.{name}": indices.clone().cpu(), f"values.{name}": values.cpu()}
        tensors |= {f"kept.{name}": value.cpu() for name, value in self.kept.items()}
        tensors |= {f"random.{device}": states for device, states in self.random.items()}
        tensors |= {"step": torch.tensor(self.step), "loss": torch.tensor(self.loss, dtype=torch.float64)}
        if self.best is not None:
            tensors["best.values"] = torch.cat(self.best.values).cpu()
            tensors |= {"best.step": torch.tensor(self.best.step)}
            tensors |= {"best.value": torch.tensor(self.best.value, dtype=torch.float64)}
        metadata: dict[str, str] = {}
        if self.interim is not None:
            tensors["unlogged"] = self.interim.unlogged
            metadata[_INTERIM] = json.dumps({k: v for k, v in vars(self.interim).items() if k != "unlogged"})
        save_checked(path, tensors, metadata)
        share(path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read what save() wrote. Raises Damaged for a file that is not a checkpoint, OSError for an unreadable one."""
        tensors, metadata = load_whole(path)
        try:
            return cls._of(tensors, metadata.get(_INTERIM))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise Damaged(path, f"is not a checkpoint ({type(error).__name__}: {error})") from error

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], interim: str | None) -> "Checkpoint":
        sizes = tensors["sizes"].tolist()
        touched = _named(tensors, "touched.")
        values = _named(tensors, "values.")
        best = _named(tensors, "best.")
        return cls(
            step=int(tensors["step"]),
            loss=float(tensors["loss"]),
            state={key: list(whole.split(sizes)) for key, whole in _named(tensors, "state.").items()},
            shared=_named(tensors, "shared."),
            random=_named(tensors, "random."),
            mask=Mask(_named(tensors, "mask.")),
            touched={name: (indices, values[name]) for name, indices in touched.items()},
            best=Best(int(best["step"]), float(best["value"]), list(best["values"].split(sizes))) if best else None,
            kept=_named(tensors, "kept."),
            interim=Interim(unlogged=tensors["unlogged"], **json.loads(interim)) if interim else None,
        )


def paused_id(path: Path) -> str | None:
    """The id of the pause that a checkpoint was written at; None for any other file, and for none."""
    try:
        with opened(path, "pt") as file:
            said = (file.metadata() or {}).get(_INTERIM)
        return None if said is None else str(json.loads(said)["id"])
    except (OSError, Damaged, ValueError, KeyError, TypeError):
        return None  # whoever reads all of it says what is wrong


def last_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint of an earlier attempt; None where there is none, or it is damaged. Collective.

    A damaged one costs the run its progress and is reported once.
    """
    # All ranks resume, or none: a network disk may show the file to some nodes later than to others.
    if not all_ranks(present(path)):
        return None
    found = None
    try:
        found = Checkpoint.load(path)
    except (Damaged, FileNotFoundError) as error:
        if rank() == 0:
            note_damage(path, getattr(error, "reason", "is gone"), "the run begins from its start")
    return found if all_ranks(found is not None) else None


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def take_checkpoint(
    step: int,
    loss: float,
    optimizer: OptimizerState,
    kept: Mapping[str, Tensor],
    delta: SparseDelta | None,
    best: Best | None = None,
) -> Checkpoint:
    """The present state of a run. Collective."""
    state, shared = optimizer.read()
    mask, touched = Mask({}), {}
    if delta is not None:
        names = [c.name for c in delta.places]
        mask = Mask(dict(zip(names, delta.indices, strict=True)))
        if delta.refreshed:
            touched = dict(zip(names, zip(delta.touched, delta.touched_values(), strict=True), strict=True))
    return Checkpoint(step, loss, state, shared, _random_states(), mask, touched, best, kept=kept)


def restore(checkpoint: Checkpoint, optimizer: OptimizerState) -> None:
    """Restore optimizer and random states; the caller then calls the attachment's write(). Collective."""
    optimizer.write(checkpoint.state, checkpoint.shared)
    for device, states in checkpoint.random.items():
        # With another number of ranks no state is this rank's own, and all take the first.
        state = states[rank() if len(states) == world_size() else 0].clone()
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(state)


def _random_states() -> dict[str, Tensor]:
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()
    everyone: list[dict[str, Tensor]] = [mine] * world_size()
    if world_size() > 1:
        dist.all_gather_object(everyone, mine)
    return {device: torch.stack([each[device] for each in everyone]) for device in mine}
