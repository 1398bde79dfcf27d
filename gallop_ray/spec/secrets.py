"""Removes secrets from addresses: the only place that knows which parts of an address are secret."""

import re
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus

from gallop_ray.spec.schema import Sweep

HIDDEN = "***"
_ADDRESS = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+")
_PARTS = re.compile(r"(?s)(?P<head>[^/:]*:/{2})(?P<place>[^?#]*)(?P<tail>.*)")
_HOST = re.compile(r"[^:]*(:\d*)?|\[.*")
# Harmless keys of a query; the value of any other may be a password.
_HARMLESS = ("charset", "connect_timeout", "driver", "mode", "sslmode", "timeout", "uri")
_SHORTEST = 3
"""Shorter parts of a password are not hidden in messages, because they would match in ordinary words."""


def hidden(address: str) -> str:
    """The address with *** for its user part and for the values of its query that may be secret.

    A password may contain `/`, `?`, `#` and `@` although these should be written as %2F, %3F, %23 and %40: everything
    before the last @ belongs to the user part.
    """
    head, user, rest = _split(address)
    shown = f"{head}{HIDDEN}@" if user is not None else head
    place, mark, query = _first_of(rest, "?#")
    if not mark or (mark == "#" and head.lower().startswith("sqlite")):  # a file's name may hold it
        return shown + rest
    return f"{shown}{place}{mark}{'&'.join(_hidden_pair(pair) for pair in query.split('&'))}"


def hidden_in(text: str, *addresses: str | None) -> str:
    """A message, such as a database driver's, without the secrets of the addresses in it and of those given."""
    for address in filter(None, addresses):
        text = text.replace(address, hidden(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return _ADDRESS.sub(lambda found: hidden(found[0]), text)


def without_secrets(sweep: Sweep) -> Sweep:
    """The sweep without secrets, for its records, Ray and the terminal."""
    return _with_addresses(sweep, *(address and hidden(address) for address in _addresses(sweep)))


def with_secrets(sweep: Sweep, source: Sweep) -> Sweep:
    """A sweep from records, with the addresses of its source where they differ only by secrets."""
    both = zip(_addresses(sweep), _addresses(source), strict=True)
    return _with_addresses(sweep, *(known if known and hidden(known) == kept else kept for kept, known in both))


def lacks_secrets(sweep: Sweep) -> bool:
    """Whether an address of the sweep cannot be used because its secrets are missing."""
    return any(address and HIDDEN in address for address in _addresses(sweep))


def _addresses(sweep: Sweep) -> tuple[str | None, str | None]:
    return sweep.tracking.uri, sweep.search.storage


def _with_addresses(sweep: Sweep, uri: str | None, storage: str | None) -> Sweep:
    tracking = sweep.tracking.model_copy(update={"uri": uri})
    search = sweep.search.model_copy(update={"storage": storage})
    return sweep.model_copy(update={"tracking": tracking, "search": search})


def _split(address: str) -> tuple[str, str | None, str]:
    """Scheme with its slashes, user part, and the rest; a file's path has no user part."""
    found = _PARTS.fullmatch(address)
    if found is None:
        user, at, rest = address.rpartition("@")
        return ("", user, rest) if at and ":" in user else ("", None, address)
    rest = found["place"] + found["tail"]
    if rest.startswith("/"):
        return found["head"], None, rest
    # An @ after the first ? or # is one of a query, unless what stands before it is no host.
    whole = found["place"] if "@" in found["place"] or _HOST.fullmatch(found["place"].partition("/")[0]) else rest
    user, at, place = whole.rpartition("@")
    return found["head"], user if at else None, place + rest[len(whole) :]


def _first_of(text: str, marks: str) -> tuple[str, str, str]:
    found = re.search(f"[{marks}]", text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def _hidden_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return HIDDEN if pair else ""
    return pair if name.lower() in _HARMLESS or not value else f"{name}={HIDDEN}"


def _secrets(address: str) -> Iterator[str]:
    """The secrets of an address, quoted and unquoted, as a whole and in parts."""
    _, user, rest = _split(address)
    _, _, query = _first_of(rest, "?#")
    pairs = (pair.partition("=") for pair in query.split("&"))
    values = [value for name, _, value in pairs if name.lower() not in _HARMLESS]
    password = (user or "").partition(":")[2] or user or ""
    for value in (password, *values):
        for form in (value, unquote(value), unquote_plus(value)):
            parts = (form, *form.split("@"), *re.split("[@/:?#]", form))
            yield from (part for part in parts if len(part) >= _SHORTEST)
