"""PEFT: the names that it takes for those of an earlier transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.utils import transformers_weight_conversion as conversion

from gallop_ray.compat.probe import require

_CONVERT = "convert_peft_config_for_transformers"


def probe() -> None:
    """Raises Incompatible."""
    require("peft", {f"transformers_weight_conversion.{_CONVERT}": lambda: getattr(conversion, _CONVERT)})


@contextmanager
def names_as_they_are() -> Iterator[None]:
    """While this is open PEFT adapts the modules and parameters that a configuration names, and no others.

    Of some mixtures of experts it takes `up_proj` and its like, of dense blocks and shared experts, for the names that
    the experts had once, adapts the experts twice and the named modules not at all.
    """
    before = getattr(conversion, _CONVERT)
    setattr(conversion, _CONVERT, _nothing)
    try:
        yield
    finally:
        setattr(conversion, _CONVERT, before)


def _nothing(*_: Any, **__: Any) -> None:
    """Converts nothing."""
