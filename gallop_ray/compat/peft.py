"""PEFT: its conversion of module names from earlier versions of transformers."""

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
    """Context manager: PEFT adapts exactly the modules and parameters that a configuration names.

    In some mixtures of experts it otherwise takes `up_proj` and the like, of dense blocks and shared experts, for the
    experts' former names: it then adapts the experts twice and the named modules not at all.
    """
    before = getattr(conversion, _CONVERT)
    setattr(conversion, _CONVERT, _nothing)
    try:
        yield
    finally:
        setattr(conversion, _CONVERT, before)


def _nothing(*_: Any, **__: Any) -> None:
    """Converts nothing."""
