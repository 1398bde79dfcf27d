"""mask.json: which entries a run has chosen, as counts."""

from typing import Any, Self

from pydantic import model_validator

from gallop_ray.disk.damage import Damaged
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.typed import StoredRecord, note_unread


class MaskRecord(StoredRecord):
    """mask.json. `matrices`: (chosen entries, all entries) of each candidate, by its path in the model."""

    chosen: int = 0
    matrices: dict[str, tuple[int, int]] = {}
    magnitudes: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.matrices and "chosen" not in self.model_fields_set:
            raise ValueError("has no chosen")
        return self


def read_mask(run: RunFolder) -> MaskRecord | None:
    """A run's mask.json; None for a run without a mask, and where unreadable, which is reported once."""
    try:
        mask = MaskRecord.read(run.path / "mask.json")
    except Damaged as error:
        note_unread(error, "it counts as not there")
        return None
    return mask if mask and mask.matrices else None
