"""Environment variables on their way to a submitted job, sealed: neither Ray's tables nor any file or log holds them.

Ray stores and logs a job's own environment in plain text. Instead the job makes a key pair when it starts and prints
the public key into its log; whoever has submitted it seals the variables with that key and stores them in the head's
table, from which the job takes them. Only the memory of this one process can open them.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SAID = "gallop-ray waits for its variables, sealed for "
_SECONDS = 300.0
_POLL_SECONDS = 0.5
_KEY_BYTES, _NONCE = 32, bytes(12)  # a key serves for one message


def seal(variables: Mapping[str, str], public: bytes) -> bytes:
    """The variables, for the holder of the private key alone. public: 32 bytes of X25519."""
    mine = X25519PrivateKey.generate()
    shared = mine.exchange(X25519PublicKey.from_public_bytes(public))
    sealed = ChaCha20Poly1305(_derived(shared)).encrypt(_NONCE, json.dumps(dict(variables)).encode(), None)
    return _raw(mine.public_key()) + sealed


def unseal(sealed: bytes, private: X25519PrivateKey) -> dict[str, str]:
    """The variables. Raises InvalidTag for what was not sealed with the public key."""
    shared = private.exchange(X25519PublicKey.from_public_bytes(sealed[:_KEY_BYTES]))
    variables: dict[str, str] = json.loads(
        ChaCha20Poly1305(_derived(shared)).decrypt(_NONCE, sealed[_KEY_BYTES:], None)
    )
    return variables


def _derived(shared: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=b"gallop-ray submit").derive(shared)


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def announced(log: str) -> bytes | None:
    """The public key in a job's log; None while there is none."""
    for line in log.splitlines():
        if line.startswith(SAID):
            return bytes.fromhex(line.removeprefix(SAID).strip())
    return None


def receive(place: str, command: Sequence[str]) -> None:
    """Take the variables from `place` in the head's table, and become `gallop-ray COMMAND` with them."""
    from gallop_ray.compat.ray import take_package

    private = X25519PrivateKey.generate()
    print(f"{SAID}{_raw(private.public_key()).hex()}", flush=True)
    until = time.monotonic() + _SECONDS
    while (sealed := take_package(os.environ["RAY_ADDRESS"], place)) is None:
        if time.monotonic() > until:
            sys.exit(f"gallop-ray: no variables came in {_SECONDS:g} s from `gallop-ray submit`; submit again")
        time.sleep(_POLL_SECONDS)
    # Replaces this process: what it has started for Ray's client ends with it.
    environment: Any = {**os.environ, **unseal(sealed, private)}
    os.execve(sys.executable, [sys.executable, "-m", "gallop_ray", *command], environment)


if __name__ == "__main__":
    receive(sys.argv[1], sys.argv[2:])
