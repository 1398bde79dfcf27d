"""How a run tells what happens. The worker is handed a reporter; what becomes of the events is not its business."""

from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """The record of one run."""

    @property
    def adapter(self) -> Path:
        """Where the trained adapter belongs."""
        ...

    @property
    def checkpoint(self) -> Path:
        """Where the run's checkpoint belongs."""
        ...

    def event(self, event: str, **fields: Any) -> None:
        """Something happened."""
        ...


class Silent:
    """The reporter of every rank but the first."""

    def __init__(self, adapter: Path) -> None:
        self.adapter = adapter
        self.checkpoint = adapter.parent / "checkpoint.safetensors"

    def event(self, event: str, **fields: Any) -> None:
        """Say nothing."""
