"""Where a sweep prints its own output, while other libraries' output goes elsewhere."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Terminal:
    """Streams for progress and for warnings.

    above: prints a line above a self-updating display; used for warnings while there is one.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    above: Callable[[str], None] | None = None

    def warn(self, text: str) -> None:
        """Print a warning."""
        if self.above is not None:
            self.above(text)
        else:
            print(text, file=self.err, flush=True)
