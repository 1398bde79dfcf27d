"""As `answer`, once on SmolLM2-135M, whose runs are few and short enough for two cores.

On sums, which it learns in so few steps; of the pocket model's tasks it learns hardly more than how often which answer
is right, and configurations differ by luck.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.answer import Size, compared
from gallop_ray.spec.basics import basics_entry

SMOLLM2 = Size(
    configurations=12,
    steps=27,
    model="smollm2-135m",
    dtype="bfloat16",
    batch=8,
    length=48,
    data={
        "train": "sums",
        "ood": ["counting", "opposites"],
        "formulation": "cloze",
        "tasks": {name: basics_entry(name) for name in ("sums", "counting", "opposites")},
    },
    validation=48,
    rates=(3e-5, 1e-2),
)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each arm, and one for each arm's share; the quick one is that of `answer`."""
    assert not quick, "python -m benchmarks answer --quick shows that it runs"
    return compared(SMOLLM2, 1)
