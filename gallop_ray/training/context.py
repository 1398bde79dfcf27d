"""What everything in a run shares."""

from dataclasses import dataclass

from gallop_ray.spec.schema import Configuration, TrainingSpec
from gallop_ray.training.phases import Phases
from gallop_ray.training.report import Reporter
from gallop_ray.training.resident import Resident


@dataclass(frozen=True)
class RunContext:
    """One run: a configuration with one seed, on a resident base model."""

    resident: Resident
    configuration: Configuration
    seed: int
    reporter: Reporter
    phases: Phases

    @property
    def training(self) -> TrainingSpec:
        """How it trains."""
        return self.configuration.training
