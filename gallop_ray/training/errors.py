"""An error that every rank of a run raises together, so that the slot survives it."""


class BaseChanged(Exception):
    """A run has changed the base model, so nothing it measured counts.

    restored: whether the base model is as it was again; otherwise it must be reloaded before another run.
    """

    def __init__(self, reason: str, restored: bool) -> None:
        super().__init__(reason)
        self.restored = restored
