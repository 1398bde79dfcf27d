"""What every sweep needs from this machine."""

import os
import shutil
import socket
import tempfile
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from gallop_ray.compat.probe import incompatibilities
from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.disk.bucket.reach import reach
from gallop_ray.disk.locks import Lock, NoLocks
from gallop_ray.disk.trouble import described_trouble
from gallop_ray.mlflow_mirror.sqlite import file_of
from gallop_ray.mlflow_mirror.store import look
from gallop_ray.mlflow_mirror.trouble import trouble
from gallop_ray.preflight.findings import Finding, gigabytes, ok, problem, warning
from gallop_ray.records.environment import environment_record
from gallop_ray.records.files import append_line, complete_lines, read_json, write_json
from gallop_ray.spec.secrets import hidden
from gallop_ray.training.presets import made_cache_folder

_SHARED_MEMORY = Path("/dev/shm")
_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path
_RAY_SOCKET = "/ray/session_2026-01-31_23-59-59_999999_9999999/sockets/plasma_store"


def versions() -> Iterator[Finding]:
    """Python and the packages that gallop_ray requires."""
    record = environment_record()
    shown = ", ".join(f"{name} {record[name]}" for name in ("torch", "ray", "deepspeed", "transformers", "mlflow"))
    wrong = list(_wrong_versions())
    if wrong:
        yield problem(f"Python {record['python']}; {'; '.join(wrong)}", "Run: pip install -c constraints.txt .")
    else:
        yield ok(f"Python {record['python']}; {shown}")
    for line in incompatibilities():
        yield problem(line, "Run: pip install -c constraints.txt .")


def _wrong_versions() -> Iterator[str]:
    try:
        asked = metadata.requires("gallop_ray") or []
    except metadata.PackageNotFoundError:  # run from its source folder
        return
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} is {found}, needed is {requirement.specifier}"


def gpus() -> Iterator[Finding]:
    """Whether torch sees the GPUs that the driver shows."""
    there = environment_record()["gpus"]
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        kinds = Counter(f"{each.name} of {gigabytes(each.total_memory)}" for each in found)
        yield ok(f"GPUs: {', '.join(f'{n} x {kind}' for kind, n in kinds.items())}; CUDA {torch.version.cuda}")
    elif not there:
        yield ok("no GPU: sweeps run on the CPU")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield warning(f"{len(there)} GPUs are hidden by CUDA_VISIBLE_DEVICES", "Unset it to use them")
    else:
        yield problem(
            f"the driver shows {len(there)} GPUs, torch {torch.__version__} sees none",
            "Install a torch that is built for this driver's CUDA; nvidia-smi prints its version",
        )


def memory() -> Iterator[Finding]:
    """Processors, memory, and the shared memory in which Ray keeps objects."""
    total, available = host_memory()
    line = f"{usable_cpus()} CPUs, {gigabytes(available)} of {gigabytes(total)} memory available"
    yield ok(line) if available > 2e9 else warning(line, "Ray and a slot need about 2 GB besides the model")
    if _SHARED_MEMORY.exists() and (shared := shutil.disk_usage(_SHARED_MEMORY).total) < 2e8:
        yield warning(f"{_SHARED_MEMORY} has {gigabytes(shared)}", "Start the container with --shm-size=2g")


def host_memory() -> tuple[int, int]:
    """Total and available bytes, within this container's limit."""
    found = psutil.virtual_memory()  # of the host, also inside a container, whose limit is its cgroup's
    limits = [_number(Path(path)) for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")]
    if limits[0] is None or limits[0] >= found.total:
        return found.total, found.available
    return limits[0], min(found.available, limits[0] - (limits[1] or 0))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache() -> Iterator[Finding]:
    """Whether prepared models can be kept on this machine."""
    try:
        made_cache_folder()
    except ValueError as error:
        said, _, fix = str(error).partition("; ")
        found = problem if os.environ.get("GALLOP_RAY_CACHE") else warning
        yield found(said, fix[0].upper() + fix[1:])


def disk(output: str) -> Iterator[Finding]:
    """Disk space and permissions where a sweep would write, or whether the bucket takes what a sweep asks of it."""
    if is_bucket(output):
        yield _bucket(output)
        return
    folder = Path(output).expanduser().absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield problem(f"output {output}: {there} cannot be written to", "Give another folder as output")
        return
    if (refused := _refused(there)) is not None:
        yield problem(f"output {output}: {refused}", "")
        return
    free = shutil.disk_usage(there).free
    line = f"output {output}: {gigabytes(free)} free"
    if free < 1e9:
        yield problem(line, "Free disk space, or give another folder as output")
    elif free < 1e10:
        yield warning(line, "Adapters may fill it: retention: {adapters: best}, or disk_gb as a budget")
    else:
        yield ok(line)


def _bucket(address: str) -> Finding:
    try:
        reach(address)
    except OSError as error:
        return Finding("problem", f"output {address}: {error.strerror or error}", refused=True)
    return ok(f"output {address}: can be read, written and listed, and has conditional writes")


def _refused(folder: Path) -> str | None:
    """Tries everything that a run does with its records; what this storage refuses, or None. Leaves nothing behind."""
    try:
        with tempfile.TemporaryDirectory(prefix=".gallop-ray-doctor-", dir=folder) as name:
            trial = Path(name)
            lock = Lock(trial / "lock")
            lock.acquire(timeout=_SECONDS)
            try:
                write_json(trial / "a.json", {"written": 0})
                write_json(trial / "a.json", {"written": 1})
                append_line(trial / "a.jsonl", {"line": 0})
                append_line(trial / "a.jsonl", {"line": 1})
                if read_json(trial / "a.json") != {"written": 1} or len(complete_lines(trial / "a.jsonl")) != 2:
                    return f"{folder} does not give back what was just written to it; give another folder as output"
            finally:
                lock.release()
    except NoLocks as error:
        return str(error)
    except OSError as error:
        return described_trouble(error, folder)
    return None


def traps() -> Iterator[Finding]:
    """Settings of the environment that cost time or stop Ray."""
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        text = "PYTHONDONTWRITEBYTECODE is set: every Ray process compiles its packages again, and starts take minutes"
        yield warning(text, "Run: unset PYTHONDONTWRITEBYTECODE")
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(folder + _RAY_SOCKET) > _LONGEST_SOCKET:
        yield problem(f"the path {folder} is too long for Ray's sockets", "Run: export RAY_TMPDIR=/tmp")


def tracking(uri: str, experiment: str) -> Iterator[Finding]:
    """Whether MLflow accepts records, tried as a sweep does; a sweep runs without it and sends the rest later."""
    shown, reason = hidden(uri), _unreachable(uri)
    refuses = False
    if not reason:
        try:
            look(uri, experiment)
        except Exception as error:  # of MLflow, of a database's driver, of a package that is missing
            refuses, reason = trouble(error, uri)
    later = "a sweep runs without it and sends later what it missed"
    if refuses:
        yield warning(f"MLflow at {shown} refuses the records: {reason}", f"Change that; {later}")
    elif reason:
        fix = "Start it, or change tracking.uri or MLFLOW_TRACKING_URI"
        yield warning(f"MLflow at {shown} cannot be reached: {reason}", f"{fix}; {later}")
    else:
        yield ok(f"MLflow at {shown}")


def _unreachable(uri: str) -> str:
    """Why nothing answers, found faster than MLflow would, which retries; empty where something answers."""
    if (path := file_of(uri)) is not None:
        there = next(each for each in path.absolute().parents if each.exists())
        return "" if os.access(there, os.W_OK) else f"{there} cannot be written to"
    try:
        parts = urllib.parse.urlsplit(uri)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.partition("+")[0])
        if host and port:
            socket.create_connection((host, port), _SECONDS).close()
    except ValueError:  # not an address: MLflow reports it
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""
