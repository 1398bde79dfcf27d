"""The probes of all packages, by the process that needs them. A package is imported only when it is probed."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from gallop_ray.compat.probe import Incompatible

DRIVER = ("ray", "train", "tune")
WORKER = ("torch", "transformers", "deepspeed")
OPTIONAL = ("lm_eval",)
ALL = (*DRIVER, *WORKER, "mlflow", "peft", *filter(find_spec, OPTIONAL))


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
