"""What other packages do not promise is used in one room, and what it needs is there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gallop_ray
from gallop_ray.compat import ray as ray_compat
from gallop_ray.compat.probe import ALL, TRIED, Incompatible, incompatibilities, probe_all

ROOM = Path(gallop_ray.__file__).parent
INNER = ("ray.core", "ray.train.v2", "ray.tune.execution", "deepspeed.runtime", "torch._", "optuna._")
OF_PYTHON = {"_exit", "_run_exitfuncs", "_actions", "_SubParsersAction", "_HelpAction"}
"""Of os, atexit and argparse, which Python keeps."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROOM.rglob("*.py")):
        if path.parent.name != "compat":
            yield path.relative_to(ROOM), ast.parse(path.read_text())


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names() -> set[str]:
    """Private names that the package itself defines, on classes or modules."""
    found = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def test_nothing_outside_of_the_room_imports_what_is_private_elsewhere() -> None:
    wrong = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("gallop_ray"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            wrong += [f"{path}: {n}" for n in names if n.startswith(INNER) or any(map(private, n.split(".")))]
    assert wrong == []


def test_nothing_outside_of_the_room_reads_private_attributes_of_others() -> None:
    own = own_names()
    wrong = [
        f"{path}:{node.lineno}: {node.attr}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own | OF_PYTHON
    ]
    assert wrong == []


@pytest.mark.slow
def test_what_is_used_of_the_installed_packages_is_there() -> None:
    assert list(incompatibilities()) == []


@pytest.mark.parametrize("module", ALL)
def test_every_room_has_a_probe_that_can_fail(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gallop_ray.compat.probe._there", lambda look: False)
    with pytest.raises(Incompatible, match=r"has no \S+, which gallop_ray uses; it was tried with") as error:
        probe_all((module,))
    assert any(f"{package} {version}" in str(error.value) for package, version in TRIED.items())


def test_a_package_that_lost_something_is_named_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(ray_compat.ray_state), "get_actor_info")
    with pytest.raises(Incompatible, match=r"^ray .* has no _private\.state\.get_actor_info, which gallop_ray uses"):
        probe_all(("ray",))
