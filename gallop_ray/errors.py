"""What a sweep, or what is asked of it, can end with. Light, so that whoever catches them imports nothing else."""


class UserError(ValueError):
    """The sweep cannot run as it was asked for; the message says what to change."""


class Halted(Exception):
    """The sweep has to stop; what has finished is kept, and the same command resumes from there."""

    def __init__(self, reason: str, mistake: bool = False) -> None:
        super().__init__(reason)
        self.mistake = mistake


class Diverged(Exception):
    """The training loss or the trained values contain NaN or inf. Raised on every rank alike."""


class NothingToDrawError(ValueError):
    """The runs do not hold what the figure would show; the message says what is missing."""
