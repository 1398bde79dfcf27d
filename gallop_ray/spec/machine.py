"""The sections of a sweep file that say where and how it runs; results do not depend on most of them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from gallop_ray.spec.frozen import Frozen
from gallop_ray.spec.places import expanded_file_address


class ResourcesSpec(Frozen):
    """The size of a slot, and how many; `auto` takes as many as the cluster holds."""

    workers_per_slot: int = Field(default=1, ge=1, description="processes that train one run together")
    cpus_per_worker: float = Field(default=1, gt=0, description="CPUs that Ray reserves for each")
    gpus_per_worker: float = Field(default=0, ge=0, description="GPUs for each; 0.5 has two slots share one")
    slots: Annotated[int, Field(ge=1, strict=True)] | Literal["auto"] = Field(
        default="auto", description="runs that are active at once; `auto`: as many as the cluster holds"
    )
    interleave: int = Field(
        default=1, ge=1, description="configurations that a slot trains in turn, each for a rung of steps"
    )
    held_gb: float = Field(
        default=1, ge=0, description="memory of a slot's node for paused runs; those that do not fit are read from disk"
    )


class RetentionSpec(Frozen):
    """What stays on the disk.

    `best` removes all adapters but those of each method's best configuration so far and of the Pareto front.
    """

    # The overlap of masks between seeds is reported of adapters that are there: by default none is missing.
    adapters: Literal["all", "best"] = Field(default="all", description="whose adapters stay")
    predictions: int | None = Field(
        default=200,
        ge=0,
        description="of how many test examples per task a run keeps prompt and answer, in predictions.jsonl; null: all",
    )
    disk_gb: float | None = Field(default=None, gt=0, description="stop when the sweep's folder would exceed this")


class DeepspeedSpec(Frozen):
    """DeepSpeed ZeRO. `extra` is merged into the DeepSpeed configuration as it is."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1, description="what workers split: 1 optimizer, 2 gradients, 3 weights"
    )
    offload_optimizer: bool = Field(
        default=False, description="keep the optimizer's state in the host's memory; stage 1 on"
    )
    offload_parameters: bool = Field(default=False, description="keep the weights in the host's memory; stage 3 only")
    extra: dict[str, Any] = Field(default={}, description="more of DeepSpeed's configuration")


class TrackingSpec(Frozen):
    """MLflow. Without a uri: the environment's MLFLOW_TRACKING_URI, else an SQLite file beside the sweeps."""

    uri: Annotated[str, AfterValidator(expanded_file_address)] | None = Field(
        default=None, description="an MLflow tracking uri, such as http://HOST:5000"
    )
    experiment: str = Field(default="gallop_ray", description="the experiment's name, made where it is not there")
