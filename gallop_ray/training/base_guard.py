"""Checks that a run leaves the base model as it was, and restores it where not; such a run has failed."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from gallop_ray.errors import BaseChanged
from gallop_ray.sparse.base_state import BaseState
from gallop_ray.sparse.weights import all_ranks
from gallop_ray.spec.method import MethodSpec
from gallop_ray.training.resident import LoadedModel

_LOG = logging.getLogger(__name__)
_SHOWN = 3


@contextmanager
def base_kept(resident: LoadedModel, spec: MethodSpec) -> Iterator[None]:
    """Context manager: a method may change the base model, which is compared and restored on exit.

    Raises BaseChanged, on every rank, where the method did not restore it itself. An exception from inside is re-raised
    once the base model is restored; where it cannot be restored, BaseChanged is raised from it.
    """
    try:
        yield
    except Exception as error:
        # Nothing collective here: this rank may be the only one that failed.
        if put_back(resident):
            reason = f"the base model cannot be restored after: {error}"
            raise BaseChanged(reason, restored=False) from error
        raise
    found = _state(resident).differences() + _changed(resident)
    lost = put_back(resident, unchanged=not found)
    if not all_ranks(not found):
        left = f"{spec.name} left the base model changed ({_named(found)})"
        raise BaseChanged(f"{left}; its results do not count", restored=all_ranks(not lost))


def check_frozen(resident: LoadedModel, spec: MethodSpec, trained: Sequence[Tensor], when: str) -> None:
    """Raise BaseChanged, on every rank, unless everything but `trained` still holds the base model's values."""
    changed = _changed(resident, trained)
    if not all_ranks(not changed):
        reason = f"{spec.name} changes the base model {when} ({_named(changed)}), which its adapter would not tell"
        raise BaseChanged(f"{reason}; leave it out, or change its options", restored=True)


def _changed(resident: LoadedModel, but: Sequence[Tensor] = ()) -> list[str]:
    return [f"{name} holds other numbers" for name in _state(resident).changed(but)]


def _state(resident: LoadedModel) -> BaseState:
    assert resident.at_rest is not None, "runs need a base model to compare with"
    return resident.at_rest


def put_back(resident: LoadedModel, unchanged: bool = False) -> list[str]:
    """Restore the base model; not collective. Returns what still differs.

    unchanged: its tensors were read, and are as they were.
    """
    state = _state(resident)
    state.restore()
    changed = [] if unchanged else state.changed()
    if changed and resident.load is not None:
        try:
            state.refill(changed, resident.load())
        except Exception:  # the disk, the memory, a model that was moved: the workers' next start reports it
            _LOG.exception("the base model could not be read again")
        changed = state.changed()
    return changed


def _named(found: Sequence[str]) -> str:
    """The first few, and how many more; another rank's findings are not known here."""
    if not found:
        return "seen by another rank"
    more = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
