"""Images built by Debian's buildah, in a storage of their own and with this machine's settings of pip."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Buildah:
    """buildah, whose images and containers all lie below `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        for program in ("buildah", "mmdebstrap"):
            if shutil.which(program) is None:
                pytest.fail(f"no {program} found; install Debian's package {program}")
        if os.geteuid() != 0:
            pytest.fail("mmdebstrap needs root")
        places = {"graphroot": f"{self.folder}/images", "runroot": f"{self.folder}/run", "driver": "overlay"}
        settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in places.items())
        (self.folder / "storage.conf").write_text(f"[storage]\n{settings}")

    def run(self, *command: str | Path, timeout: float = 1800) -> "subprocess.CompletedProcess[str]":
        """A command that may call buildah, to its end; stdout and stderr are one."""
        env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf")}
        out, err = subprocess.PIPE, subprocess.STDOUT
        return subprocess.run(command, env=env, text=True, stdout=out, stderr=err, timeout=timeout)

    def done(self, *command: str | Path) -> str:
        """What a command printed that must succeed."""
        ended = self.run(*command)
        assert ended.returncode == 0, ended.stdout[-5000:]
        return ended.stdout

    def inspect(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.done("buildah", "inspect", "--type", "image", image))
        return found

    def remove(self) -> None:
        for command in (("rm", "--all"), ("rmi", "--all", "--force")):
            self.run("buildah", *command)
        shutil.rmtree(self.folder)


def pip_settings(folder: Path) -> list[str]:
    """buildah's options that make pip in a build find what it finds here: its settings, and the files they name.

    A builder elsewhere gets by with the public index, or with build arguments; the image keeps no more of
    this than the empty places where it was mounted.
    """
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    lines = [line.partition("=") for line in listed.splitlines()]
    # Variables come last, so that they win as they do for pip.
    settings = {
        name.rpartition(".")[2]: ast.literal_eval(value)
        for variables in (False, True)
        for name, _, value in lines
        if name.startswith(":env:") == variables
    }
    path = folder / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{name} = {' '.join(value.split())}\n" for name, value in settings.items()))
    named = {path: Path("/etc/pip.conf")}
    for word in " ".join(settings.values()).split():
        if word.startswith("file://"):  # an index refers to files beside it
            named[Path(word.removeprefix("file://")).parent] = Path(word.removeprefix("file://")).parent
        elif word.startswith("/") and Path(word).exists():
            named[Path(word)] = Path(word)
    return [f"--volume={here}:{there}:ro" for here, there in named.items()]
