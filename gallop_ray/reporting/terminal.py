"""Where a sweep prints what is its own, while other libraries' text goes elsewhere."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Terminal:
    """Streams for progress and for warnings.

    above: prints a line above a display that renews itself; warnings go by it while there is such a display.
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    above: Callable[[str], None] | None = None

    def warn(self, text: str) -> None:
        """Print a line that asks for attention."""
        if self.above is not None:
            self.above(text)
        else:
            print(text, file=self.err, flush=True)
