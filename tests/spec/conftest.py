"""Sweep files written on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.schema import Sweep

SMALLEST = """\
name: small
model: {name: pocket}
data: {root: generated, train: sum, ood: [max, min]}
methods: [{type: gallop}, {type: lora}]
"""

Load = Callable[..., Sweep]
Problems = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the smallest sweep with more text and overrides."""

    def load_text(more: str = "", *overrides: str, text: str = SMALLEST) -> Sweep:
        path = tmp_path / "sweep.yaml"
        path.write_text(text + more, encoding="utf-8")
        return load_sweep(path, overrides)

    return load_text


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Problems:
    """The lines that say what is wrong, without the folder of the file."""

    def lines(more: str = "", *overrides: str, text: str = SMALLEST) -> list[str]:
        with pytest.raises(SweepFileError) as caught:
            load(more, *overrides, text=text)
        return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]

    return lines
