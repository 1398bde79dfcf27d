"""What all files of cluster/ have to keep: commands that exist, one version of Ray, nothing secret."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from gallop_ray.cli import make_parser
from tests.cluster.files import CLUSTER, ROOT, commands

FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.name != "README.md")
_RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]
_MLFLOW = re.search(r"^mlflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]


@pytest.mark.parametrize("path", [path for path in FILES if list(commands(path))], ids=lambda path: path.name)
def test_the_commands_in_a_file_are_understood(path: Path) -> None:
    for command in commands(path):
        make_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_every_way_to_start_a_sweep_names_the_command() -> None:
    with_commands = {str(path.relative_to(CLUSTER)) for path in FILES if list(commands(path))}
    ways = {"kuberay/rayjob.yaml", "kuberay/rayjob-kueue.yaml", "skypilot.yaml"}
    assert ways | {"slurm/gallop_ray.sbatch"} <= with_commands


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_versions_are_those_of_the_constraints(path: Path) -> None:
    text = path.read_text()
    rays = re.findall(r"rayproject/ray:(\d+\.\d+\.\d+)|rayVersion: \"(\d+\.\d+\.\d+)\"", text)
    assert {version for pair in rays for version in pair if version} <= {_RAY}
    assert set(re.findall(r"mlflow(?:\[auth\])?(?:==|:)(\d+\.\d+\.\d+)", text)) <= {_MLFLOW}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_secret_stands_in_a_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"hf_[A-Za-z0-9]{8}|AKIA[A-Z0-9]{12}|://[^\s/:@]+:[^\s/@]+@", text)


# -- the Dockerfile

_INSTRUCTION = re.compile(r"(ARG|FROM|COPY|RUN|USER|WORKDIR|ENV) (.+)")


def _instructions(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#") and line.strip()]
    text = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = [_INSTRUCTION.fullmatch(line) for line in text.splitlines()]
    assert all(found), text
    return [(each[1], each[2]) for each in found if each]


@pytest.mark.parametrize("path", [CLUSTER / "docker/Dockerfile", CLUSTER / "mlflow/Dockerfile"], ids=str)
def test_an_image_does_not_run_as_root_and_copies_what_is_there(path: Path) -> None:
    context = ROOT if path.parent.name == "docker" else path.parent
    instructions = _instructions(path)
    assert [value for name, value in instructions if name == "USER"][-1] == "1000"
    for value in [value for name, value in instructions if name == "COPY"]:
        sources = [part for part in value.split() if not part.startswith("--")][:-1]
        assert all((context / source).exists() for source in sources), value
    for value in [value for name, value in instructions if name == "RUN"]:
        subprocess.run(["sh", "-n", "-c", value], check=True)


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = [value for name, value in _instructions(CLUSTER / "docker/Dockerfile") if name == "COPY"]
    assert sent == {part for value in copied for part in value.split()[:-1] if not part.startswith("--")}


def test_extras_that_the_image_installs_are_ours() -> None:
    (asked,) = re.findall(r"'\.\[([\w,]+)\]'", (CLUSTER / "docker/Dockerfile").read_text())
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(asked.split(",")) <= set(known)


# -- the MLflow server

_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_SERVICE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "image": _TEXT,
        "build": _TEXT,
        "command": _TEXTS,
        "environment": {"type": "object", "additionalProperties": _TEXT},
        "volumes": _TEXTS,
        "ports": _TEXTS,
        "restart": {"enum": ["unless-stopped"]},
        "depends_on": {"type": "object", "additionalProperties": {"type": "object"}},
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"test": _TEXTS, "interval": _TEXT, "retries": {"type": "integer"}},
        },
    },
}
_COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "services": {"type": "object", "additionalProperties": _SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "object"}},
    },
}


def _compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "mlflow/compose.yaml").read_text())
    return found


def test_the_compose_file_has_known_keys_and_refers_to_what_is_there() -> None:
    compose = _compose()
    Draft202012Validator(_COMPOSE).validate(compose)
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert {each.partition(":")[0] for each in service.get("volumes", ())} <= set(compose["volumes"])
        secret = {name: value for name, value in service["environment"].items() if "PASS" in name or "KEY" in name}
        assert all(re.fullmatch(r"\$\{\w+:\?\}", value) for value in secret.values()), (
            "compose stops where one is unset"
        )


def test_a_planted_mistake_in_the_compose_file_is_found() -> None:
    compose = _compose()
    compose["services"]["mlflow"]["enviroment"] = {}
    assert not Draft202012Validator(_COMPOSE).is_valid(compose)


def test_compose_and_kubernetes_start_the_same_server() -> None:
    pods = yaml.safe_load_all((CLUSTER / "mlflow/kubernetes.yaml").read_text())
    (deployment,) = [each for each in pods if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    service = _compose()["services"]["mlflow"]
    assert container["args"] == service["command"]
    assert {each["name"] for each in container["env"]} == set(service["environment"])


# -- Slurm

_SBATCH = CLUSTER / "slurm/gallop_ray.sbatch"


def test_the_sbatch_script_is_one_and_asks_for_what_it_relies_on() -> None:
    subprocess.run(["bash", "-n", str(_SBATCH)], check=True)
    options = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", _SBATCH.read_text(), re.MULTILINE)
    given = dict(options)
    assert len(given) == len(options)
    assert {"requeue", "exclusive"} <= set(given)
    assert given["signal"].startswith("B:TERM@"), "the script itself is told, before the limit"
    assert given["open-mode"] == "append", "a requeued job would overwrite its log"
    assert given["ntasks-per-node"] == "1"


# -- SkyPilot


def test_the_skypilot_file_hides_secrets_and_keeps_records_on_a_volume() -> None:
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    assert set(task) == {"name", "num_nodes", "workdir", "resources", "volumes", "envs", "secrets", "run"}
    assert not any(re.search("TOKEN|PASSWORD", name) for name in task["envs"])
    (output,) = re.findall(r"--set output=(\S+)", task["run"])
    assert any(output.startswith(mount) for mount in task["volumes"])
    subprocess.run(["bash", "-n", "-c", task["run"]], check=True)
