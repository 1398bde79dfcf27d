"""An end of a run that every rank comes to together, so that the slot lives on."""


class BaseChanged(Exception):
    """A run has changed the base model, so that nothing it measured counts.

    restored: whether the base model is what it was again; otherwise this process must load it before another run.
    """

    def __init__(self, reason: str, restored: bool) -> None:
        super().__init__(reason)
        self.restored = restored
