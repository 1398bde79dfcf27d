"""What every node of a cluster must have in common with this one: the storage, and the versions of packages."""

import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.disk.bucket.store import Bucket
from gallop_ray.records.environment import environment_record
from gallop_ray.slots.pool import credentials

_ANSWER_SECONDS = 120.0  # a node that has run nothing yet starts a worker process first
_BUCKET_SECONDS = 20.0
_SEEN_SECONDS = 5.0  # network disks show new files late
_MOUNT = "Mount the same storage on every node, or give a folder on such a storage as output"
_COMPARED = ("python", "torch", "ray", "deepspeed", "transformers", "peft", "gallop_ray")


class NodeTrouble(NamedTuple):
    """What is wrong with a node, which it names, and what to do."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix[0].lower()}{self.fix[1:]}"


def node_troubles(output: str) -> list[NodeTrouble]:
    """Ask every node of the cluster that this process has joined; none of a cluster of one node.

    output: the folder that all nodes must see, made if need be, or the place in a bucket that all must be able to read.
    A token that is written there is read on each of them.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return []
    name = f".seen-by-every-node-{uuid.uuid4().hex}"
    if is_bucket(output):
        bucket = Bucket(output)
        bucket.put(name, name.encode(), _BUCKET_SECONDS)
    else:
        Path(output).mkdir(parents=True, exist_ok=True)
        (Path(output) / name).write_text(name)
    try:
        return [each for node in _asked(nodes, output, name) for each in _troubles(*node, output)]
    finally:
        if is_bucket(output):
            bucket.delete(name, _BUCKET_SECONDS)
        else:
            (Path(output) / name).unlink(missing_ok=True)


@ray.remote(num_cpus=0, max_retries=0)
def _look(output: str, token: str, variables: Mapping[str, str]) -> tuple[bool, dict[str, Any]]:
    """On a node: whether it sees the token, and its versions."""
    os.environ.update(variables)
    deadline = time.monotonic() + _SEEN_SECONDS
    while not (seen := _holds(output, token)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen, environment_record()


def _holds(output: str, token: str) -> bool:
    with suppress(OSError):
        if not is_bucket(output):
            return (Path(output) / token).read_text() == token
        found = Bucket(output).get(token, _BUCKET_SECONDS)
        return found is not None and found[0] == token.encode()
    return False


def _asked(nodes: list[dict[str, Any]], output: str, token: str) -> Iterator[tuple[str, Any]]:
    """Each node's name, with what it answers: an exception where it cannot."""
    variables = credentials(output)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [_look.options(scheduling_strategy=place).remote(output, token, variables) for place in places]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
    for node, answer in zip(nodes, asked, strict=True):
        name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        if answer not in answered:
            yield name, TimeoutError(f"no answer in {_ANSWER_SECONDS:.0f} s")
            continue
        try:
            yield name, ray.get(answer)
        except Exception as error:  # whatever the node's Python lacks comes as an error of Ray
            yield name, error


def _troubles(name: str, answer: Any, output: str) -> Iterator[NodeTrouble]:
    if isinstance(answer, Exception):
        reason = str(answer).strip().splitlines()[-1]
        fix = "Install the same version of gallop_ray there, and look at the logs of its raylet"
        yield NodeTrouble(f"{name} cannot run gallop_ray: {reason}", fix)
        return
    seen, record = answer
    if not seen:
        yield _not_seen(name, output)
    if different := _different(record, environment_record()):
        yield NodeTrouble(f"{name} has {different}", "Install the same versions on every node: constraints.txt")


def not_seen(output: str) -> str:
    """What a worker says that lacks what the driver has written into the sweep's folder, with its node and the fix."""
    return str(_not_seen(f"node {socket.gethostname()}", output))


def _not_seen(name: str, output: str) -> NodeTrouble:
    if is_bucket(output):
        what = f"{name} cannot read in {output} what the driver has just written there"
        return NodeTrouble(what, "Give its machine, or the driver's environment, credentials for the bucket")
    what = f"{name} does not see output {output}: a file that was written there by the driver is not there"
    return NodeTrouble(what, _MOUNT)


def _different(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {theirs[name]} where this machine has {ours[name]}" for name in _COMPARED if theirs[name] != ours[name]
    )
