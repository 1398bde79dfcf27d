"""Which configuration is trained next, and up to which rung, where configurations pause at rungs.

The driver alone decides, by the run folders: every start looks at them, and a kill at any moment loses only what has
been trained since the last pause.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gallop_ray.records.folders import ConfigurationFolder, SweepFolder
from gallop_ray.search.climbed import Climbed, better_is_more, climbed
from gallop_ray.search.rungs import least_advanced, place, promotable
from gallop_ray.search.study import Studies
from gallop_ray.spec.plan import come_first
from gallop_ray.spec.rungs import Rung, rungs_of
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.give_up import end, give_up


@dataclass
class _Climber:
    """A configuration: how far it has come, and what it does now."""

    method: str
    at: Climbed
    active: bool = False
    over: bool = False
    dead: bool = False
    """Whether a run of it failed or diverged: it takes no place at a rung, however well it stood there."""
    half_done: bool = False
    """Whether a later seed was begun and not ended, or has ended before the first, whose adapter was lost: it had been
    promoted before a kill, and keeps its place."""

    @property
    def waits(self) -> bool:
        """Whether it may continue."""
        return self.at.rungs > 0 and not self.active and not self.over


class Ladder:
    """Hands out configurations, each up to its next rung. For one process at a time.

    slots: how many configurations may be trained at once; `asha` begins others while some wait, the other rules only
    as many as the slots hold.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, studies: Studies, slots: Callable[[], int]) -> None:
        self._sweep, self._folder, self._studies, self._slots = sweep, folder, studies, slots
        self._rungs = {method.name: rungs_of(sweep, method.name) for method in sweep.methods}
        self._climbers: dict[str, _Climber] = {}
        ended = []
        for configuration in folder.configurations():
            if configuration.method in self._rungs:
                before = configuration.status().over
                self._climbers[configuration.key] = found = self._found(configuration)
                ended += [configuration.key] * (found.over and not before)
        waiting = [key for key, each in self._climbers.items() if each.waits]
        studies.withhold([*ended, *waiting])
        for key in waiting:  # a study that was lost, or a kill before it was told, knows nothing of the rungs
            studies.report(key)
        for key in ended:
            studies.tell(key)
        self._begun = False
        """Whether all configurations of the budget have been begun."""

    def take(self) -> str | None:
        """The next key; None while nothing can be trained before something active has come to its rung.

        Once nothing is active either, those that still wait are over.
        """
        key = self._promoted() or self._another()
        if key is None:  # all have begun: no rung waits for more any longer, nor then for the reduction
            key = self._promoted() or self._promoted(few=True)
        if key is not None:
            self._climbers[key].active = True
        elif self._begun and not self.more():
            self._give_up()
        return key

    def more(self) -> bool:
        """Whether something is active that may make others continue."""
        return any(each.active for each in self._climbers.values())

    def rung(self, key: str) -> tuple[int, float | None]:
        """How far a key that was taken is to be trained."""
        climber = self._climbers[key]
        rung = self._rungs[climber.method][climber.at.rungs]
        return rung.seeds, rung.at

    def told(self, key: str) -> bool:
        """A key that was taken is no longer active. Returns whether it has come to its rung, or is over."""
        before, configuration = self._climbers[key], self._folder.configuration(key)
        self._climbers[key] = now = self._found(configuration)
        if now.over:
            self._studies.tell(key)
        else:
            self._studies.report(key)
        return now.over or now.at.rungs > before.at.rungs

    def _found(self, configuration: ConfigurationFolder) -> _Climber:
        """What the records say. Where all runs have ended and the status does not say so, a kill came between."""
        results, at = configuration.results(), climbed(self._sweep, configuration)
        stopped = [each for each in results if each.status == "pruned"]
        dead = any(each.failed for each in results)
        if not configuration.status().over:
            if stopped:
                give_up(self._sweep, self._folder, configuration, stopped[0].reason or "")
            elif dead or at.rungs == len(self._rungs[configuration.method]):
                end(self._sweep, configuration)
        begun, (first, *others) = [run.seed for run in configuration.runs() if run.result() is None], self._sweep.seeds
        lost = first in begun and any(each.finished for each in results)
        half_done = lost or any(seed in others for seed in begun)
        return _Climber(configuration.method, at, over=configuration.status().over, dead=dead, half_done=half_done)

    def _at(self, method: str, number: int) -> dict[str, float]:
        """What was measured at a rung, by key, of all that may still win.

        Once several seeds are compared, those that have gone on count with all their seeds: whoever is then better than
        the one that has all of them gets the others, too. What is over without them takes no place there.
        """
        rungs = self._rungs[method]
        found = {}
        for key, each in self._climbers.items():
            if each.method != method or number not in each.at.values or each.dead:
                continue
            if rungs[number].seeds < 2:
                found[key] = each.at.values[number]
            elif each.at.latest is not None and (not each.over or each.at.rungs == len(rungs)):
                found[key] = each.at.latest
        return found

    def _promoted(self, few: bool = False) -> str | None:
        """Who continues; few: because nothing else is left to do, however few have come as far."""
        if self._sweep.pruning.type == "asha":
            halves = (key for key, each in self._climbers.items() if each.waits and each.half_done)
            return next(itertools.chain(halves, self._best_of_rungs(few)), None)
        waiting = {key: each.at.rungs for key, each in self._climbers.items() if each.waits}
        held = sum(not each.over for each in self._climbers.values())
        full = held >= self._sweep.resources.interleave * self._slots()
        return least_advanced(waiting, list(self._climbers)) if full or self._begun else None

    def _best_of_rungs(self, few: bool) -> Iterator[str]:
        """Those that asha promotes, the highest rung first; if few, the lowest, that more may come to those above."""
        numbers = range(max(map(len, self._rungs.values())) - 1)
        for number in numbers if few else reversed(numbers):
            for method, rungs in self._rungs.items():
                if number + 1 < len(rungs):
                    yield from self._best(method, number, self._least(rungs, number) if few else 0)

    def _best(self, method: str, number: int, least: int) -> Iterator[str]:
        """Those of a method that wait at a rung and are among its best third, or its best few."""
        there = ((key, each) for key, each in self._climbers.items() if each.at.rungs == number + 1)
        waiting = [key for key, each in there if each.method == method and each.waits]
        values = self._at(method, number)
        yield from (key for key in waiting if key not in values)  # its steps have no such rung
        if self._begun or len(values) >= come_first(self._sweep, number):
            more = better_is_more(self._sweep, method, number)
            yield from promotable(values, waiting, self._sweep.pruning.reduction, more, least)

    def _least(self, rungs: Sequence[Rung], number: int) -> int:
        """How many continue from a rung, however few have come to it.

        To the end of the first seed, and from there to a second, more than one: neither the loss on the way nor a
        single seed tells the best of a few good ones.
        """
        several = 1 in (rungs[number].seeds, rungs[number + 1].seeds)
        return math.ceil(self._sweep.pruning.reduction) if several else 1

    def _another(self) -> str | None:
        if not self._begun and (key := self._studies.next()) is not None:
            if key not in self._climbers:
                self._climbers[key] = _Climber(self._folder.configuration(key).method, Climbed())
            return key
        self._begun = True
        return None

    def _give_up(self) -> None:
        """End those that wait: none of them is among the best of its rung."""
        reasons = {key: self._place(key, climber) for key, climber in self._climbers.items() if climber.waits}
        for key, reason in reasons.items():
            give_up(self._sweep, self._folder, self._folder.configuration(key), reason)
            self._climbers[key].over = True
            self._studies.tell(key)

    def _place(self, key: str, climber: _Climber) -> str:
        """Why a configuration that waits is over, in words."""
        number, others = climber.at.rungs - 1, [e for e in self._climbers.values() if e.method == climber.method]
        rung, values = self._rungs[climber.method][number], self._at(climber.method, number)
        mine = place(values, key, better_is_more(self._sweep, climber.method, number))
        went = sum(each.at.rungs > number + 1 for each in others)
        what = "validation loss" if rung.at is not None else self._sweep.objective.racing.metric
        said = f"{what} {values[key]:.4f} is number {mine} of {len(values)}, and {went} of them continued"
        return f"stopped early at step {climber.at.steps[number]}: {said}"
