"""Files whose contents are not what was written: reported once, with the consequence."""

import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)
_SAID: set[tuple[str, str]] = set()


class Damaged(ValueError):
    """A file does not hold what it should; the message names it and says why."""

    def __init__(self, path: Path, reason: str, fix: str = "restore or delete it") -> None:
        super().__init__(f"{path} {reason}: {fix}")
        self.path, self.reason = path, reason


def note_damage(path: Path, reason: str, follows: str) -> None:
    """Log once per process what is wrong with a file, and the consequence."""
    if (str(path), reason) not in _SAID:
        _SAID.add((str(path), reason))
        _LOG.warning("%s %s; %s", path, reason, follows)
