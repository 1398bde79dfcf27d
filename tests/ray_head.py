"""A Ray head of a test's own, which asks for a token."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray._common.utils import reset_ray_address

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """Its process, and the environment with the token that it asks for."""

    process: psutil.Process
    env: dict[str, str]


@contextmanager
def ray_head(folder: Path, *arguments: str, **more: str) -> Iterator[Head]:
    """`ray start --head` with these arguments and more environment; token and log lie in the folder."""
    token = folder / "token"
    token.write_text("a-token-for-this-test-only-0123456789")
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    env = {**os.environ, **auth, "OMP_NUM_THREADS": "1", **more}
    log = (folder / "head.log").open("w")
    process = subprocess.Popen([RAY, "start", "--head", *arguments, "--block"], env=env, stdout=log, stderr=log)
    try:
        yield Head(psutil.Process(process.pid), env)
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()  # asked to end, Ray takes half a minute
        process.wait()
        reset_ray_address()  # else ray.init() of other tests would look for it
