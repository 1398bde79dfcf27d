"""The errors with which sweeps and commands end. Light, so that catching them imports nothing else."""


class UserError(ValueError):
    """The sweep cannot run as requested; the message says what to change."""


class Halted(Exception):
    """The sweep has to stop; what has finished is kept, and the same command resumes from there."""

    def __init__(self, reason: str, mistake: bool = False) -> None:
        super().__init__(reason)
        self.mistake = mistake


class Diverged(Exception):
    """The training loss or the trained values contain NaN or inf. Raised on every rank."""


class BaseChanged(Exception):
    """A run has changed the base model, so nothing it measured counts. Raised on every rank: the slot survives it.

    restored: whether the base model is as it was again; otherwise it must be reloaded before another run.
    """

    def __init__(self, reason: str, restored: bool) -> None:
        super().__init__(reason)
        self.restored = restored


class NothingToDrawError(ValueError):
    """The runs lack the data of a figure; the message says what is missing."""
