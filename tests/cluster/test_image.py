"""cluster/docker/Dockerfile built by buildah, on a base that has what Ray's image has; a sweep in what came out of it.

Ray's image itself is not downloaded: tests/cluster/ray_base.sh says what stands in its place, and how it differs.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.files import ROOT
from tests.cluster.images import Buildah, pip_settings

pytestmark = pytest.mark.image

_RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]
_BASE, _IMAGE = f"docker.io/rayproject/ray:{_RAY}-py311-cpu", "localhost/gallop_ray:cpu"
_REQUIREMENTS = "pip install --no-cache-dir -c constraints.txt"  # begins the step that takes minutes


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    folder = Path(tempfile.mkdtemp(prefix="images", dir="/var/tmp"))  # gigabytes, which a /tmp in memory has not
    images = Buildah(folder)
    yield images
    images.remove()


def _context(folder: Path) -> Path:
    """The repository as someone has it who works in it: with records, caches and secrets beside the sources."""
    context = folder / "context"
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", "out")
    shutil.copytree(ROOT, context, ignore=ignored)
    for name in (".env", "runs/quickstart/result.json", "gallop_ray/spec/__pycache__/odd.pyc", "build/lib/odd.py"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("planted")
    return context


def _build(buildah: Buildah, context: Path) -> str:
    """Build the image, and return what buildah printed."""
    base = ["--pull-never", "--isolation=chroot", "--layers", "--build-arg=DEVICE=cpu"]
    where: list[str | Path] = ["--file", context / "cluster/docker/Dockerfile", "--tag", _IMAGE, context]
    return buildah.done("buildah", "bud", *base, *pip_settings(buildah.folder), *where)


@pytest.fixture(scope="module")
def context(buildah: Buildah) -> Path:
    """The folder that the image was built from."""
    started = time.monotonic()
    buildah.done(ROOT / "tests/cluster/ray_base.sh", _BASE, _RAY, *pip_settings(buildah.folder))
    base = time.monotonic()
    context = _context(buildah.folder)
    _build(buildah, context)
    print(f"base: {base - started:.0f} s, image: {time.monotonic() - base:.0f} s")
    return context


@pytest.fixture(scope="module")
def box(buildah: Buildah, context: Path) -> str:
    """A container of the image."""
    return buildah.done("buildah", "from", "--pull-never", _IMAGE).split()[-1]


def _inside(buildah: Buildah, box: str, *command: str, user: str = "1000") -> str:
    """What a command prints in the container, in the image's folder."""
    options = ("--isolation=chroot", f"--volume={ROOT / 'sweeps'}:/sweeps:ro", f"--user={user}")
    return buildah.done("buildah", "run", *options, box, "--", *command)


def test_the_image_runs_as_rays_user_and_holds_only_what_it_needs(buildah: Buildah, box: str) -> None:
    config = buildah.inspect(_IMAGE)["OCIv1"]["config"]
    assert (config["User"], config["WorkingDir"]) == ("1000", "/home/ray")
    assert _inside(buildah, box, "id").startswith("uid=1000(ray) gid=100(users)")
    kept = _inside(buildah, box, "ls", "-A", "/opt/gallop_ray").split()
    assert kept == ["LICENSE", "README.md", "constraints.txt", "gallop_ray", "pyproject.toml"]
    odd = "find / -xdev ( -path /home/ray/* -not -user ray -o -name odd.* -o -path /home/ray/.cache/* ) -print"
    assert _inside(buildah, box, *odd.split(), user="0") == ""


def test_the_packages_are_those_of_the_constraints_and_fit_together(buildah: Buildah, box: str) -> None:
    """Also those that Ray's image has in other versions."""
    installed = dict(line.split("==") for line in _inside(buildah, box, "pip", "list", "--format=freeze").split())
    wanted = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    common = installed.keys() & wanted.keys()
    assert {"ray", "torch", "deepspeed", "numpy", "pydantic", "obstore"} <= common
    assert {name: installed[name].partition("+")[0] for name in common} == {name: wanted[name] for name in common}
    assert "No broken requirements" in _inside(buildah, box, "pip", "check")


def test_doctor_and_the_quickstart_sweep_in_the_image(buildah: Buildah, box: str) -> None:
    """Neither needs a compiler or root. The network is this machine's: buildah's chroot has no other."""
    doctor = _inside(buildah, box, "gallop-ray", "doctor", "/sweeps/quickstart.yaml")
    print(doctor)
    assert "problems: 0" in doctor
    started = time.monotonic()
    print(_inside(buildah, box, "gallop-ray", "run", "/sweeps/quickstart.yaml")[-3000:])
    print(f"quickstart: {time.monotonic() - started:.0f} s")
    status = json.loads(_inside(buildah, box, "gallop-ray", "status", "runs/quickstart", "--json"))
    assert (status["state"], status["runs"]["total"], status["runs"]["finished"]) == ("finished", 36, 36)
    _inside(buildah, box, "test", "-s", "runs/quickstart/report/report.html")


def test_a_change_of_code_installs_it_and_leaves_the_layer_of_gigabytes(buildah: Buildah, context: Path) -> None:
    (context / "README.md").write_text("changed")
    (context / "gallop_ray/added.py").write_text("")
    steps = re.split(r"^STEP ", _build(buildah, context), flags=re.MULTILINE)
    (requirements,) = [step for step in steps if _REQUIREMENTS in step]
    assert "Using cache" in requirements
    (sources,) = [step for step in steps if "COPY" in step and "./gallop_ray" in step]
    assert "Using cache" not in sources
