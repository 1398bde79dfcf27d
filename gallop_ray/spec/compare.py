"""Whether a stored sweep may be resumed as another: how they differ."""

import json
from collections.abc import Iterator, Mapping

from gallop_ray.spec.configuration import space_keys
from gallop_ray.spec.rungs import climbs, rungs_of
from gallop_ray.spec.schema import Sweep

# Place, budget, retention, tracking and display: no result depends on them. Nor on pruning (but for its rungs) and
# confirmation, which only decide how many seeds a configuration gets from now on.
_FREE = ("name", "output", "budget", "resources", "tracking", "pruning", "retention", "confirmation")
_OWN_RULES = ("methods", "seeds", "search")
_ABSENT = "nothing"


def differences(stored: Sweep, asked: Sweep) -> list[str]:
    """What prevents `asked` from continuing the records of `stored`: dotted paths with both values.

    More configurations, more seeds and further methods after the stored ones, and search spaces that are the same for
    every stored method, prevent nothing.
    """
    old, new = stored.model_dump(mode="json"), asked.model_dump(mode="json")
    fixed = [key for key in new if key not in _FREE + _OWN_RULES]
    found = [line for key in fixed for line in _differing(key, old[key], new[key])]
    found += _methods(stored, asked)
    found += _seeds(stored, asked)
    spaces = old["search"].pop("space"), new["search"].pop("space")
    for each in ("storage", "warm_start", "widen"):  # any study is updated from the run folders, and may be told more
        del old["search"][each], new["search"][each]
    found += _differing("search", old["search"], new["search"])
    found += _rungs(stored, asked)
    changed = dict.fromkeys(_changed_keys(stored, asked))
    return [*found, *(_line(f"search.space.{key}", *(space.get(key) for space in spaces)) for key in changed)]


def _differing(path: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differing(f"{path}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield _line(path, old, new)


def _line(path: str, old: object, new: object) -> str:
    return f"{path}: was {_written(old)}, is {_written(new)}"


def _written(value: object) -> str:
    return _ABSENT if value is None else json.dumps(value)


def _rungs(stored: Sweep, asked: Sweep) -> Iterator[str]:
    """A run that waits at one step cannot be compared with others at another."""
    if not (climbs(stored) and climbs(asked)):
        return
    for method in stored.methods:
        if method.name in {each.name for each in asked.methods}:
            old, new = ([r.at for r in rungs_of(each, method.name) if r.at is not None] for each in (stored, asked))
            if old and new and old != new:
                yield _line("pruning.rungs", old, new)
                return


def _methods(stored: Sweep, asked: Sweep) -> Iterator[str]:
    names, wanted = [method.name for method in stored.methods], [method.name for method in asked.methods]
    if wanted[: len(names)] != names:
        yield _line("methods", names, wanted)
        return
    for old, new in zip(stored.methods, asked.methods, strict=False):
        yield from _differing(old.name, old.model_dump(mode="json"), new.model_dump(mode="json"))


def _seeds(stored: Sweep, asked: Sweep) -> Iterator[str]:
    # What was paused or stopped after n seeds has run the first n of the list.
    if asked.seeds[: len(stored.seeds)] != stored.seeds:
        fix = "; put the new ones last" * (set(stored.seeds) <= set(asked.seeds))
        yield _line("seeds", list(stored.seeds), list(asked.seeds)) + fix


def _changed_keys(stored: Sweep, asked: Sweep) -> Iterator[str]:
    """The keys that give a stored method another space. Keys that only reach other methods do not count."""
    kept = {method.name: method for method in asked.methods}
    for before in stored.methods:
        after = kept.get(before.name, before)
        old, new = space_keys(stored, before), space_keys(asked, after)
        for path in dict.fromkeys([*old, *new]):
            first, second = old.get(path), new.get(path)
            if first is None or second is None or stored.search.space[first] != asked.search.space[second]:
                yield from filter(None, [first, second])
