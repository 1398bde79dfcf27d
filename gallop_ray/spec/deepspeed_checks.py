"""The checks of DeepSpeed's section: what is set elsewhere, has no effect, or would leave sparse updates unseen."""

from collections.abc import Iterator
from typing import Any

from gallop_ray.spec.problems import Finding, shown
from gallop_ray.spec.schema import Sweep

_OWNED_BY_US = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_size",
    "gradient_clipping": "training.clip_norm",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "optimizer": "training.learning_rate and training.weight_decay",
    "scheduler": "training.schedule and training.warmup_ratio",
    "torch_autocast": "model.dtype",
    # They would write beside MLflow, and their keys into the records.
    **dict.fromkeys(("comet", "csv_monitor", "tensorboard", "wandb"), "tracking"),
}
_SET_BY_US = ("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer")
_OFFLOADS = {
    "offload_param": (3, "use zero_stage 3"),
    "cpu_offload_param": (3, "use zero_stage 3"),
    "offload_optimizer": (1, "use zero_stage 1 or more"),
    "cpu_offload": (1, "use zero_stage 1 or more"),
}
"""The sections of zero_optimization that offload, and the lowest stage at which they do."""
_COPIED_WEIGHTS = {
    "zero_hpz_partition_size": (0, 1),
    "zero_quantized_weights": (False,),
    "zero_quantized_nontrainable_weights": (False,),
    "stage3_param_persistence_threshold": (0,),
    "param_persistence_threshold": (0,),
}


def offload_stages(sweep: Sweep) -> Iterator[Finding]:
    """Offloading at a stage that does not split what is offloaded."""
    deepspeed = sweep.deepspeed
    stage = ("deepspeed", "zero_stage")
    if deepspeed.offload_parameters and deepspeed.zero_stage != 3:
        message = f"true is not allowed at zero_stage {deepspeed.zero_stage}; parameters are offloaded at stage 3 only"
        yield (("deepspeed", "offload_parameters"), stage), message
    if deepspeed.offload_optimizer and deepspeed.zero_stage == 0:
        message = "true is not allowed at zero_stage 0; the optimizer is offloaded at stages 1, 2 and 3"
        yield (("deepspeed", "offload_optimizer"), stage), message


def extra_without_effect(sweep: Sweep) -> Iterator[Finding]:
    """Keys that every run sets, or that DeepSpeed ignores at this stage."""
    deepspeed, stage = sweep.deepspeed, ("deepspeed", "zero_stage")
    for key in _SET_BY_US:
        if key in deepspeed.extra:
            yield (("deepspeed", "extra", key),), "is not allowed here; every run sets it, so leave it out"
    zero = deepspeed.extra.get("zero_optimization", {})
    for key, (lowest, at) in _OFFLOADS.items() if isinstance(zero, dict) else ():
        if deepspeed.zero_stage < lowest and _is_asked(zero.get(key)):
            message = f"is not allowed at zero_stage {deepspeed.zero_stage}, where DeepSpeed ignores it; {at}"
            yield (("deepspeed", "extra", "zero_optimization", key), stage), message


def _is_asked(offload: object) -> bool:
    return bool(offload) and not (isinstance(offload, dict) and offload.get("device", "none") in (None, "none"))


def deepspeed_extra(sweep: Sweep) -> Iterator[Finding]:
    """Keys that belong to fields of the sweep, or with which the forward pass would read stale weights."""
    extra = sweep.deepspeed.extra
    zero: Any = extra.get("zero_optimization", {})
    at = ("deepspeed", "extra")
    for key, ours in _OWNED_BY_US.items():
        if key in extra:
            yield ((*at, key),), f"is not allowed here; set {ours} instead"
    if not isinstance(zero, dict):
        yield ((*at, "zero_optimization"),), f"{shown(zero)} is not allowed; must be a section of `key: value` lines"
        return
    if "stage" in zero:
        yield ((*at, "zero_optimization", "stage"),), "is not allowed here; set deepspeed.zero_stage instead"
    for key, harmless in _COPIED_WEIGHTS.items():
        if zero.get(key, harmless[0]) not in harmless:
            message = (
                f"{shown(zero[key])} is not allowed; it keeps copies of the weights that sparse updates do not reach"
            )
            yield ((*at, "zero_optimization", key),), message
