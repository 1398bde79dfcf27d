"""What a run recorded of the entries that it chose: mask.json."""

from typing import Any, Self

from pydantic import model_validator

from gallop_ray.disk.damage import Damaged
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.typed import StoredRecord, note_unread


class MaskRecord(StoredRecord):
    """mask.json. `matrices`: of each candidate by its path in the model (chosen entries, all entries)."""

    chosen: int = 0
    matrices: dict[str, tuple[int, int]] = {}
    magnitudes: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.matrices and "chosen" not in self.model_fields_set:
            raise ValueError("has no chosen")
        return self


def read_mask(run: RunFolder) -> MaskRecord | None:
    """What a run recorded of its mask; None of a run without one, and of a record that cannot be read, said once."""
    try:
        mask = MaskRecord.read(run.path / "mask.json")
    except Damaged as error:
        note_unread(error, "it counts as not there")
        return None
    return mask if mask and mask.matrices else None
