"""The dotted paths of a search space, and the fields that they reach."""

from collections.abc import Sequence

from gallop_ray.spec.methods import MethodSpec
from gallop_ray.spec.schema import TrainingSpec


def searchable(model: type[MethodSpec] | type[TrainingSpec]) -> list[str]:
    """The fields of a section that may vary; a method's type and name say which method it is."""
    return [field for field in model.model_fields if field not in ("type", "name")]


def normalised(path: str, method: MethodSpec) -> str | None:
    """The path as `training.<field>` or `method.<option>` where it reaches this method, else None."""
    head, _, rest = path.partition(".")
    if head == method.name:
        path = rest if rest.startswith("training.") else f"method.{rest}"
    elif head not in ("training", "method"):
        return None
    return path if path.partition(".")[2] in searchable(section_model(path, method)) else None


def section_model(normal_path: str, method: MethodSpec) -> type[MethodSpec] | type[TrainingSpec]:
    """The model whose field a normalised path names."""
    return TrainingSpec if normal_path.startswith("training.") else type(method)


def known_paths(methods: Sequence[MethodSpec]) -> list[str]:
    """Every path that a search space over these methods may hold."""
    training = [f"training.{field}" for field in searchable(TrainingSpec)]
    paths = dict.fromkeys(training)
    for method in methods:
        for option in searchable(type(method)):
            paths |= {f"method.{option}": None, f"{method.name}.{option}": None}
        paths |= {f"{method.name}.{path}": None for path in training}
    return list(paths)
