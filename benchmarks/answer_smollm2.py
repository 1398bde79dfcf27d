"""As `answer`, once on SmolLM2-135M, whose runs are few and short enough for two cores."""

from collections.abc import Iterator
from typing import Any

from benchmarks.answer import Size, compared

SMOLLM2 = Size(
    configurations=12,
    steps=27,
    model="smollm2-135m",
    dtype="bfloat16",
    batch=8,
    length=48,
    ood=("max", "first"),
    validation=48,
    rates=(3e-5, 1e-2),
)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each arm, and one for each arm's share; the quick one is that of `answer`."""
    assert not quick, "python -m benchmarks answer --quick shows that it runs"
    return compared(SMOLLM2, 1)
