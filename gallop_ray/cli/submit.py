"""`gallop-ray submit`: a sweep as a Ray job, from a machine that need not belong to the cluster."""

import asyncio
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from gallop_ray.cli import sealed
from gallop_ray.compat.ray import put_package
from gallop_ray.disk.bucket.address import VARIABLES, is_bucket
from gallop_ray.spec.document import read_document
from gallop_ray.spec.harness import is_task_file
from gallop_ray.spec.overrides import apply_overrides
from gallop_ray.spec.places import is_folder
from gallop_ray.spec.plugins import module_file
from gallop_ray.spec.problems import dotted
from gallop_ray.spec.references import references
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden, without_secrets
from gallop_ray.spec.tasks import is_local

_ADDRESS = "RAY_API_SERVER_ADDRESS"  # as `ray job` has it
_PASSED_ON = re.compile(f"HF_TOKEN|PGPASSWORD|MLFLOW_.+|{VARIABLES}")
_FOLDER = "gallop_ray_folder"
"""What tells a job of this sweep from one of another user's, of the same name: the metadata that names its folder."""
_POLL_SECONDS = 1.0
_HOLDS_A_PASSWORD = (
    "holds a password, which Ray would write on the head; give it in the environment (MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, PGPASSWORD), which `submit` passes on"
)
_KEY_SECONDS = 300.0
_FAILED = 1


def submit(sweep: Sweep, arguments: Namespace) -> int:
    """Submit a validated sweep; returns the command's exit code, with --wait and --follow that of the sweep."""
    address = arguments.address or os.environ.get(_ADDRESS)
    if not address:
        raise ValueError(f"give --address, or {_ADDRESS}: where the cluster's dashboard listens, http://HEAD:8265")
    _refuse_passwords(arguments.sweep, arguments.overrides)
    _refuse(sweep)
    client = _client(address)
    jobs = {job.submission_id: job for job in client.list_jobs() if job.submission_id}
    named = {name: job for name, job in jobs.items() if re.fullmatch(rf"{re.escape(sweep.name)}-\d+", name)}
    mine = {name: job for name, job in named.items() if (job.metadata or {}).get(_FOLDER) == _folder(sweep)}
    active = next((name for name, job in mine.items() if not job.status.is_terminal()), None)
    if active and not (arguments.wait or arguments.follow):
        raise ValueError(f"sweep {sweep.name} is running already, as job {active}\n{_how(address, active, sweep)}")
    last = max((int(name.rpartition("-")[2]) for name in named), default=0)
    name = active or _start(client, sweep, arguments, f"{sweep.name}-{last + 1}")
    said = "is running already as" if active else "resumes as" if mine else "submitted as"
    print(f"sweep {sweep.name} {said} job {name}\n{_how(address, name, sweep)}", flush=True)
    return _ended(client, name, arguments.follow) if arguments.wait or arguments.follow else 0


def _folder(sweep: Sweep) -> str:
    """The sweep's folder on the cluster; a relative one is below the same folder for all jobs."""
    place = f"{sweep.output}/{sweep.name}"
    return place if is_bucket(place) else os.path.normpath(place)


def _refuse_passwords(file: str, overrides: Sequence[str]) -> None:
    """Raise ValueError for a password in what is sent: the file and every override, whatever a later one replaces."""
    document = read_document(file)
    for each in ((), *((override,) for override in overrides)):
        apply_overrides(document, each)
        for path in (("tracking", "uri"), ("search", "storage")):
            section = document.data.get(path[0])
            value = section.get(path[1]) if isinstance(section, dict) else None
            if isinstance(value, str) and hidden(value) != value:
                place = document.place(path)
                where = f"{place.file}:{place.line}:" if place.line else "--set"  # which may itself hold it
                raise ValueError(f"{where} {dotted(path)} {_HOLDS_A_PASSWORD}")


def _refuse(sweep: Sweep) -> None:
    """Raise ValueError for what a job on other machines cannot see, and for passwords from the environment."""
    if without_secrets(sweep) != sweep:
        raise ValueError(f"tracking.uri or search.storage {_HOLDS_A_PASSWORD}")
    for field, place in _places(sweep):
        if not Path(place).expanduser().is_absolute():
            raise ValueError(
                f"{field}: {place} is relative to this folder, and the job runs on the cluster; copy it to "
                "storage that all nodes see, and give its absolute path"
            )


def _places(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """The fields that name files and folders of this machine, and these."""
    if is_folder(sweep.data.root):
        yield "data.root", sweep.data.root
    if is_folder(sweep.model.name):
        yield "model.name", sweep.model.name
    if sweep.model.delta is not None and not is_bucket(sweep.model.delta):
        yield "model.delta", sweep.model.delta
    text = sweep.evaluation.text
    if text and text.endswith(".jsonl") and not is_bucket(text):
        yield "evaluation.text", text
    yield from (("search.warm_start", place) for place in sweep.search.warm_start if not is_bucket(place))
    for name, task in sweep.data.tasks.items():
        places = [task.source, *(each for each in task.splits.values() if isinstance(each, str))]
        ours = [place for place in places if place and is_local(place) and not is_bucket(place)]
        yield from ((f"data.tasks.{name}", place) for place in ours)
        if task.harness is not None and is_task_file(task.harness):
            yield f"data.tasks.{name}.harness", task.harness


def _client(address: str) -> Any:
    os.environ[_ADDRESS] = address  # else Ray would prefer RAY_ADDRESS to what it is given
    try:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise ValueError(f"no Ray dashboard answers at {address}; it is http://HEAD:8265 as a rule") from error
    except (ImportError, RuntimeError, RayError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]  # no ray[default] here, no token, or no dashboard of Ray there
        raise ValueError(
            f"the cluster at {address} takes no jobs: {reason}; see cluster/README.md for tokens, and install "
            "gallop_ray[cluster]"
        ) from error


def _start(client: Any, sweep: Sweep, arguments: Namespace, name: str) -> str:
    """Send the sweep file and the user's own modules, and nothing else of this folder; start the job."""
    variables = {key: value for key, value in os.environ.items() if _PASSED_ON.fullmatch(key) and value}
    file = Path(arguments.sweep)
    command = ["run", file.name, *(part for each in arguments.overrides for part in ("--set", each))]
    place = f"gcs://gallop_ray_{os.urandom(16).hex()}.zip"
    program = ["-m", "gallop_ray.cli.sealed", place] if variables else ["-m", "gallop_ray"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(file, Path(folder) / file.name)
        for module in filter(None, map(module_file, references(sweep))):
            _send_module(module, Path(folder))
        submitted: str = client.submit_job(
            entrypoint=shlex.join(["python", *program, *command]),
            submission_id=name,
            runtime_env={"working_dir": folder},
            metadata={"gallop_ray_sweep": sweep.name, _FOLDER: _folder(sweep)},
        )
    if variables:
        _hand_over(client, submitted, place, variables)
    return submitted


def _send_module(module: Path, folder: Path) -> None:
    if "site-packages" in module.parts:  # every node has its own
        return
    if module.is_dir():
        shutil.copytree(module, folder / module.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copyfile(module, folder / module.name)


def _hand_over(client: Any, name: str, place: str, variables: Mapping[str, str]) -> None:
    """Wait until the job has said for which key, and give it the variables."""
    until = time.monotonic() + _KEY_SECONDS
    while (key := sealed.announced(client.get_job_logs(name))) is None:
        if client.get_job_status(name).is_terminal() or time.monotonic() > until:
            raise ValueError(f"job {name} did not start: {client.get_job_info(name).message}")
        time.sleep(_POLL_SECONDS)
    put_package(client, place, sealed.seal(variables, key))
    print(f"passed on, sealed: {', '.join(sorted(variables))}")


def _how(address: str, name: str, sweep: Sweep) -> str:
    where = _folder(sweep)
    lines = [
        f"  follow: ray job logs --follow --address {address} {name}",
        f"  stop:   gallop-ray stop {where}   (where its folder is seen; ends after the active runs)",
        f"          ray job stop --address {address} {name}   (at once)",
        "  the same command resumes it",
    ]
    if not is_bucket(sweep.output) and not Path(sweep.output).expanduser().is_absolute():
        lines.append(f"  note: output {sweep.output} will be below ~/gallop_ray on the head: right for one node only")
    return "\n".join(lines)


def _ended(client: Any, name: str, follow: bool) -> int:
    """Wait for the end of a job; its exit code."""
    if follow:
        asyncio.run(_show(client, name))
    while not (status := client.get_job_status(name)).is_terminal():
        time.sleep(_POLL_SECONDS)
    info = client.get_job_info(name)
    print(f"job {name}: {status.value.lower()}")
    if status.value == "SUCCEEDED":
        return 0
    print(f"gallop-ray: {str(info.message).strip()}", file=sys.stderr)
    return info.driver_exit_code or _FAILED


async def _show(client: Any, name: str) -> None:
    async for lines in client.tail_job_logs(name):
        shown = [line for line in lines.splitlines(keepends=True) if not line.startswith(sealed.SAID)]
        print("".join(shown), end="", flush=True)
