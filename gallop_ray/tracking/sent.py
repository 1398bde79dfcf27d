"""What MLflow has been told of a folder."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gallop_ray.disk.damage import Damaged
from gallop_ray.tracking.files import write_json
from gallop_ray.tracking.mlflow_store import Status
from gallop_ray.tracking.shapes import Shape, integer, text, truth

FINAL_STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
}

_SENT = Shape(
    needed={"sweep_run": text, "run_id": text},
    known={
        "status": text,
        "datasets": truth,
        **dict.fromkeys(("attempt", "offset", "last_step", "last_validation"), integer),
    },
)


@dataclass
class Sent:
    """How much of a folder MLflow holds; kept as the folder's mlflow.json, so that a restart knows.

    It counts only below the sweep's MLflow run named here: another server, or an emptied one, is sent everything.
    """

    sweep_run: str
    run_id: str
    status: Status = "RUNNING"
    attempt: int = 0
    offset: int = 0
    last_step: int = -1
    last_validation: int = -1
    datasets: bool = False

    @property
    def ended(self) -> bool:
        """Whether MLflow shows the run's end, and not merely an interruption."""
        return self.status in FINAL_STATUS.values()

    def save(self, folder: Path) -> None:
        """Write the folder's mlflow.json."""
        write_json(folder / "mlflow.json", asdict(self), durable=False)

    @classmethod
    def load(cls, folder: Path, sweep_run: str) -> "Sent | None":
        """The folder's mlflow.json; None when there is none, or it is about another MLflow run of the sweep."""
        try:
            value = _SENT.read(folder / "mlflow.json")
        except Damaged:  # cut short by a power cut: MLflow is asked for the run
            return None
        if value is None or value["sweep_run"] != sweep_run:
            return None
        return cls(**{name: value[name] for name in (each.name for each in fields(cls)) if name in value})
