"""Whether another run may start."""

import time
from statistics import fmean

from gallop_ray.reporting.live import SweepState
from gallop_ray.spec.schema import ObjectiveSpec
from gallop_ray.tracking import control
from gallop_ray.tracking.records import ConfigurationFolder, SweepFolder


class Gate:
    """Closed once the sweep is to stop, and for runs that would not finish before the deadline; waits out a pause."""

    def __init__(self, folder: SweepFolder, objective: ObjectiveSpec, deadline: float | None) -> None:
        self._folder, self._deadline = folder, deadline
        self._state = SweepState(folder, (), objective)

    def opens(self, configuration: ConfigurationFolder) -> bool:
        """Whether the next run of this configuration may start now. Returns when the sweep is not paused."""
        while (asked := control.asked(self._folder)) == "pause":
            time.sleep(control.LOOK_SECONDS)
        return asked is None and (self._deadline is None or time.time() + self._seconds(configuration) < self._deadline)

    def _seconds(self, configuration: ConfigurationFolder) -> float:
        """What a run will take, by the configuration's own and else its method's; 0 where nothing is known."""
        own = [result.get("seconds", {}).get("total") for result in configuration.results()]
        if known := [each for each in own if each is not None]:
            return fmean(known)
        self._state.look()
        return self._state.run_seconds().of(configuration.configuration()["method"]["name"]) or 0.0
