"""Which Ray a sweep uses: the cluster of RAY_ADDRESS, one that `ray start` has noted on this machine, or its own."""

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from gallop_ray.compat.ray import address_note, greet_head
from gallop_ray.spec.secrets import hidden

LOCAL = "local"
_SECONDS = 3.0
_ANSWER_SECONDS = 20.0
_FIX = "start it (ray start --head), or unset RAY_ADDRESS to run on this machine"


@dataclass(frozen=True)
class RayAddress:
    """address: for ray.init, `local` to start one. text: for the user. stale: a warning about an ignored note."""

    address: str
    text: str
    stale: str = ""

    @property
    def name(self) -> str:
        """The address without a password, for display."""
        return hidden(self.address)

    @property
    def is_local(self) -> bool:
        """Whether the sweep starts Ray itself, on this machine."""
        return self.address == LOCAL


def find_ray() -> RayAddress:
    """Look for a cluster. An empty RAY_ADDRESS counts as unset; `local` starts a Ray of our own in any case.

    A Ray that another sweep has started for itself is not noted, and not shared.

    Raises:
        ValueError: RAY_ADDRESS names a cluster that does not answer.
    """
    named = os.environ.get("RAY_ADDRESS", "").strip()
    if named == LOCAL:
        return RayAddress(LOCAL, "Ray is started on this machine, as RAY_ADDRESS says")
    if named and named != "auto":
        if reason := _silent(named):
            raise ValueError(f"no Ray cluster at {hidden(named)}, which RAY_ADDRESS names: {reason}; {_FIX}")
        return RayAddress(named, f"Ray: the cluster at {hidden(named)}, which RAY_ADDRESS names")
    note = address_note()
    noted = _read(note)
    if noted and not (reason := _silent(noted)):
        return RayAddress(noted, f"Ray: the running cluster at {noted}, noted in {note}; RAY_ADDRESS=local ignores it")
    if named:
        raise ValueError(f"RAY_ADDRESS is auto, and no Ray cluster runs here; {_FIX}")
    stale = f"the Ray cluster at {noted}, noted in {note}, does not answer: ignored" if noted else ""
    return RayAddress(LOCAL, "Ray is started on this machine; RAY_ADDRESS names no cluster", stale)


def _read(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _silent(address: str) -> str:
    """Why no cluster answers at an address; empty where one does. Ray itself would wait for 15 minutes."""
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if not port.isdecimal():
        return "it is not HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return "" if scheme else _no_head(place)


def _no_head(place: str) -> str:
    """Why what listens there is not Ray's head; empty where it is. In a thread: Ray's client cannot be interrupted."""
    found: list[str] = []

    def ask() -> None:
        try:
            greet_head(place)
        except Exception as error:  # Ray's own say which: another version, another token
            found.append(str(error).strip().splitlines()[0])
        else:
            found.append("")

    asked = threading.Thread(target=ask, daemon=True)
    asked.start()
    asked.join(_ANSWER_SECONDS)
    return found[0] if found else "what listens there is no Ray head, or one that hangs"
