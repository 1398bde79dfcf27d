"""What MLflow has been told of a folder."""

from dataclasses import asdict, dataclass
from pathlib import Path

from gallop_ray.tracking.files import read_json, write_json
from gallop_ray.tracking.mlflow_store import Status

FINAL_STATUS: dict[str, Status] = {
    "finished": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
}


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
            value = read_json(folder / "mlflow.json")
        except ValueError:  # cut short by a power cut: MLflow is asked for the run
            return None
        return cls(**value) if value and value["sweep_run"] == sweep_run else None
