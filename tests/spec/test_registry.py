"""Methods that are not of this package: beside the sweep file, of an installed package, and of records."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gallop_ray.methods import RefreshedMethod, method_class
from gallop_ray.records.code import keep_code
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.configuration import configuration_key, resolve
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.mask_methods import GallopSpec
from gallop_ray.spec.method import MaskMethodSpec
from gallop_ray.spec.plugins import installed
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.registry import GROUP, STORED, method_spec, method_specs, method_types
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.starter import starter_methods

SWEEP = """\
name: own
model: {name: pocket}
data: {root: generated, train: range}
methods:
  - METHOD
"""
SHRINK = '''\
from pydantic import Field

from gallop_ray.methods import GradientMethodSpec, MaskMethod


class HalfShrink(MaskMethod):
    """Entries that the task wants smaller."""

    class Options(GradientMethodSpec):
        """What may be set."""

        power: float = Field(default=1.0, gt=0, description="of the gradient")

    def score(self, weight, gradient, generator):
        return gradient.mul_(weight).clamp_(min=0).pow_(self.spec.power)


class Plain:
    pass
'''
Load = Callable[..., Sweep]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a sweep with this method, beside a module of this text."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which would outlive a change within a second

    def loaded(method: str, text: str = SHRINK, module: str = "own_masks") -> Sweep:
        (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
        (tmp_path / "sweep.yaml").write_text(SWEEP.replace("METHOD", method), encoding="utf-8")
        sys.modules.pop("own_masks", None)
        return load_sweep(tmp_path / "sweep.yaml")

    return loaded


def test_a_method_beside_the_sweep_file_is_one_like_any_other(load: Load) -> None:
    sweep = load("{type: 'own_masks:HalfShrink', power: 2, density: 0.02}")
    spec = sweep.methods[0]
    assert (spec.name, spec.needs_gradients, spec.refreshes) == ("half_shrink", True, False)
    assert isinstance(spec, MaskMethodSpec)
    assert method_class(type(spec)).__name__ == "HalfShrink"
    again = Sweep.model_validate_json(sweep.model_dump_json())
    assert again == sweep
    configuration = resolve(sweep, "half_shrink", {"method.density": 0.5})
    assert configuration_key(configuration).startswith("half_shrink-")


@pytest.mark.parametrize(
    ("method", "text", "said"),
    [
        ("{type: 'own_masks:HalfShrink', powr: 2}", SHRINK, "methods.0.powr: unknown key; did you mean `power`?"),
        ("{type: 'own_masks:HalfShrink', power: 0}", SHRINK, "methods.0.power: 0 is not allowed; must be greater"),
        ("{type: 'own_masks:HalfShrin'}", SHRINK, "has no HalfShrin; did you mean `HalfShrink`?"),
        ("{type: 'own_masks:Plain'}", SHRINK, "is no method; derive it from MaskMethod"),
        ("{type: 'no_masks:Shrink'}", SHRINK, "there is no module no_masks; put no_masks.py beside the sweep file"),
        ("{type: 'own_masks:A'}", "import nothing_here", "cannot be imported: No module named 'nothing_here'"),
        ("{type: 'own_masks:A'}", "1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("{type: shrinks}", SHRINK, "\"shrinks\" is not allowed; must be one of 'gallop', "),
    ],
)
def test_what_cannot_be_had_is_one_line_with_its_place(load: Load, method: str, text: str, said: str) -> None:
    with pytest.raises(SweepFileError) as error:
        load(method, text)
    (problem,) = error.value.problems
    assert problem.line == 5
    assert said in str(problem)


def test_a_file_with_the_name_of_another_module_is_refused(load: Load) -> None:
    with pytest.raises(SweepFileError, match=r"another module bisect is imported .*; rename the file"):
        load("{type: 'bisect:HalfShrink'}", module="bisect")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package that offers methods by these entry points, for the length of a test."""

    def install(entry_points: str) -> None:
        (tmp_path / "packaged_masks.py").write_text(SHRINK, encoding="utf-8")
        info = tmp_path / "packaged_masks-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged-masks\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        installed.cache_clear()

    yield install
    installed.cache_clear()
    sys.modules.pop("packaged_masks", None)


def test_an_installed_package_adds_methods_by_name(package: Callable[[str], None]) -> None:
    package("half = packaged_masks:HalfShrink\nbroken = packaged_masks:Nothing\ngallop = packaged_masks:Plain")
    assert method_types()[-2:] == ["broken", "half"]
    assert method_spec("half").model_fields["type"].default == "half"
    assert method_spec("gallop") is GallopSpec, "a name of this package is this package's"
    with pytest.raises(ValueError, match="broken of package packaged-masks cannot be used: AttributeError"):
        method_spec("broken")
    assert "half" in starter_methods()
    assert "broken" not in starter_methods()


@pytest.mark.parametrize("spec", method_specs(), ids=lambda spec: spec.model_fields["type"].default)
def test_options_and_class_agree(spec) -> None:
    assert spec.refreshes == issubclass(method_class(spec), RefreshedMethod)


def test_options_that_do_not_fit_their_class_are_refused(load: Load) -> None:
    text = SHRINK.replace("import GradientMethodSpec, MaskMethod", "import GradientMethodSpec, RefreshedMethod")
    with pytest.raises(SweepFileError, match=r"HalfShrink.Options: a RefreshedMethod has a RefreshedMethodSpec"):
        load("{type: 'own_masks:HalfShrink'}", text.replace("(MaskMethod)", "(RefreshedMethod)"))


def test_records_of_a_method_that_is_not_installed_can_be_read(load: Load) -> None:
    stored = load("{type: 'own_masks:HalfShrink', power: 2}").model_dump(mode="json")
    stored["methods"].append({"type": "of_tomorrow", "name": "tomorrow", "depth": 3})
    sys.modules.pop("own_masks")
    sweep = Sweep.model_validate(stored, context=STORED)
    assert "own_masks" not in sys.modules, "nothing is imported for it"
    assert sweep.model_dump(mode="json") == stored
    assert [method.name for method in sweep.methods] == ["half_shrink", "tomorrow"]
    resolve(sweep, "tomorrow", {"method.depth": 4})


def test_code_is_kept_in_the_sweeps_folder(load: Load, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "runs" / "own")
    sweep = load("{type: 'own_masks:HalfShrink'}")
    assert keep_code(folder, sweep) == []
    kept = folder.path / "code" / "own_masks.py"
    assert kept.read_text() == SHRINK
    assert keep_code(folder, sweep) == []
    sweep = load("{type: 'own_masks:HalfShrink'}", SHRINK + "\n# changed\n")
    (said,) = keep_code(folder, sweep)
    assert said.startswith("own_masks.py has changed since it was last used here")
    assert kept.read_text().endswith("# changed\n")
