"""Checks that the packages have the private parts that are used of them; one is imported when it is probed."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec

TRIED = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "deepspeed": "0.19.8",
    "transformers": "5.23.0",
    "mlflow": "3.17.2",
    "peft": "0.21.2",
    "lm_eval": "0.4.13",
}
"""The versions that the probes were last tried with."""
# The modules of this folder, by the process that needs them.
DRIVER = ("ray", "train", "trainer", "tune")
WORKER = ("torch", "transformers", "deepspeed")
OPTIONAL = ("lm_eval",)
ALL = (*DRIVER, *WORKER, "mlflow", "peft", *filter(find_spec, OPTIONAL))


class Incompatible(ValueError):
    """A package lacks what gallop_ray uses of it."""


def require(package: str, needs: Mapping[str, Callable[[], object]]) -> None:
    """Raise Incompatible, in one line, unless all needs are there.

    needs: by name, a function that looks it up: AttributeError, ImportError or False mean that it is missing.
    """
    missing = [name for name, look in needs.items() if not _there(look)]
    if missing:
        raise Incompatible(
            f"{package} {metadata.version(package)} has no {missing[0]}, which gallop_ray uses; "
            f"it was tried with {package} {TRIED[package]}"
        )


def _there(look: Callable[[], object]) -> bool:
    try:
        return look() is not False
    except (AttributeError, ImportError):
        return False


def probe_all(modules: tuple[str, ...]) -> None:
    """Raises Incompatible for the first package that lacks something."""
    for name in modules:
        import_module(f"gallop_ray.compat.{name}").probe()


def incompatibilities() -> Iterator[str]:
    """What the installed packages lack, one line each."""
    for name in ALL:
        try:
            probe_all((name,))
        except Incompatible as error:
            yield str(error)
