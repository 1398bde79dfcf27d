"""The passwords of a sweep that is read from its records, which hold none: from its file or the parent process."""

import json
import os
from pathlib import Path

from gallop_ray.records.files import read_json, write_json
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.registry import STORED
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import lacks_secrets, with_secrets, without_secrets

_FILE = "source.json"
_INHERITED = "GALLOP_RAY_SWEEP"


def note_source(folder: SweepFolder, sweep: Sweep, file: str | Path | None) -> None:
    """Write the sweep file's path to source.json, if the sweep has passwords, which the records do not hold."""
    if file is not None and without_secrets(sweep) != sweep:
        write_json(folder.path / _FILE, {"file": str(Path(file).resolve())})


def handed_down(sweep: Sweep) -> dict[str, str]:
    """Environment variables that give the passwords to a child process that reads the sweep's folder."""
    # Not as an argument: everybody on the machine can read command lines.
    return {} if without_secrets(sweep) == sweep else {_INHERITED: sweep.model_dump_json()}


def completed(folder: SweepFolder, sweep: Sweep) -> Sweep:
    """The recorded sweep with its passwords, as far as they can be found."""
    if not lacks_secrets(sweep):
        return sweep
    if inherited := os.environ.get(_INHERITED):
        sweep = with_secrets(sweep, Sweep.model_validate(json.loads(inherited), context=STORED))
    noted = read_json(folder.path / _FILE)
    if noted is None or not lacks_secrets(sweep):
        return sweep
    try:
        return with_secrets(sweep, load_sweep(noted["file"]))
    except (OSError, ValueError, KeyError):  # moved, or changed meanwhile
        return sweep
