"""Which code a class of the user's depends on."""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from gallop_ray.spec.own_code import code_hash

MODULES = ("own_masks", "own_formula", "own_base", "own_late", "own_package")
FILES = {
    "own_masks.py": "from own_formula import f\nfrom own_base import Base\nimport json, own_package.sub as sub\n\n\n"
    "class Mine(Base):\n    def score(self):\n        import own_late\n\n        return f(self)\n",
    "own_formula.py": "def f(x):\n    return x\n",
    "own_base.py": "class Base:\n    pass\n",
    "own_late.py": "y = 1\n",
    "own_package/__init__.py": "",
    "own_package/sub.py": "from .deep import z\n",
    "own_package/deep.py": "z = 1\n",
    "own_other.py": "unused = 1\n",
}


@pytest.fixture
def hash_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """Writes the files into a folder, changed as asked, and gives the hash of the class there."""

    def imported(folder: Path, changed: str | None = None) -> str:
        for name, text in FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + ("more = 2\n" if name == changed else ""))
        for name in [each for each in sys.modules if each.partition(".")[0] in MODULES]:
            del sys.modules[name]
        monkeypatch.syspath_prepend(folder)
        return code_hash(import_module("own_masks").Mine)

    yield imported
    for name in [each for each in sys.modules if each.partition(".")[0] in MODULES]:
        del sys.modules[name]


def test_a_copy_of_the_code_is_the_same_code(hash_in: Callable, tmp_path: Path) -> None:
    assert hash_in(tmp_path / "here") == hash_in(tmp_path / "there")


@pytest.mark.parametrize("name", [each for each in FILES if each != "own_other.py"])
def test_a_change_in_any_module_that_it_imports_is_other_code(hash_in: Callable, tmp_path: Path, name: str) -> None:
    assert hash_in(tmp_path / "here") != hash_in(tmp_path / "there", name)


def test_a_change_in_a_module_that_it_does_not_import_is_not(hash_in: Callable, tmp_path: Path) -> None:
    assert hash_in(tmp_path / "here") == hash_in(tmp_path / "there", "own_other.py")
