"""DeepSpeed: a parameter's place in the flat float32 tensors of its optimizers, and what an engine leaves behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallop_ray.compat.probe import require
from gallop_ray.importing import without

# On a machine without a GPU it else tries the packages of all accelerators, and warns.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
with without("mlflow"):  # its autotuner imports it, which takes half a second; nothing here tunes with it
    import deepspeed
    from deepspeed.runtime.zero import parameter_offload, stage3, stage_1_and_2
    from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses

__all__ = [
    "Partition",
    "deepspeed",
    "forget_engine",
    "partition_of",
    "probe",
    "shard_of",
    "skip_compiled_communication",
    "with_torch_linear",
]


def probe() -> None:
    """Raises Incompatible."""
    of_stage_3, of_stages_1_and_2 = stage3.DeepSpeedZeroOptimizer_Stage3, stage_1_and_2.DeepSpeedZeroOptimizer
    require(
        "deepspeed",
        {
            "ops.__compatible_ops__['deepspeed_shm_comm']": (
                lambda: "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
            ),
            "runtime.zero.parameter_offload.FWD_MODULE_STACK.clear": lambda: parameter_offload.FWD_MODULE_STACK.clear,
            "DeepSpeedZeroOptimizer_Stage3.get_param_id": lambda: of_stage_3.get_param_id,
            "DeepSpeedZeroOptimizer_Stage3.grad_position": lambda: _written(of_stage_3, "grad_position"),
            "DeepSpeedZeroOptimizer_Stage3.fp32_partitioned_groups_flat": (
                lambda: _written(of_stage_3, "fp32_partitioned_groups_flat")
            ),
            "DeepSpeedZeroOptimizer.single_partition_of_fp32_groups": (
                lambda: _written(of_stages_1_and_2, "single_partition_of_fp32_groups")
            ),
            "runtime.zero.partition_parameters.InsertPostInitMethodToModuleSubClasses.linear_bk": (
                lambda: _written(InsertPostInitMethodToModuleSubClasses, "linear_bk")
            ),
            "DeepSpeedEngine.empty_partition_cache": lambda: deepspeed.DeepSpeedEngine.empty_partition_cache,
        },
    )


def _written(kind: type, attribute: str) -> bool:
    """Whether the class's methods use an instance's attribute of this name."""
    functions = [each for each in vars(kind).values() if hasattr(each, "__code__")]
    return any(attribute in each.__code__.co_names for each in functions)


def skip_compiled_communication() -> None:
    """Do not let DeepSpeed compile its shared-memory communication, which takes half a minute per machine; use gloo."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def with_torch_linear() -> Iterator[None]:
    """Context manager: linear layers by torch's own function, not by the one that ZeRO-3 puts in its place for good.

    A backward pass of that one fetches a split weight and gives it away again, even where it was complete before, so
    that a second derivative finds it empty.
    """
    functions: Any = functional
    present = functions.linear
    functions.linear = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", present)
    try:
        yield
    finally:
        functions.linear = present


def forget_engine(engine: Any) -> None:
    """Free a destroyed engine's memory. Under ZeRO-3 closures inside DeepSpeed keep it alive, now as an empty shell."""
    # A list of the module's, which destroy() does not empty.
    parameter_offload.FWD_MODULE_STACK.clear()
    optimizer = engine.optimizer
    for shell in (getattr(optimizer, "optimizer", None), optimizer, engine):
        if shell is not None:
            vars(shell).clear()


class Partition(NamedTuple):
    """`size` entries of a parameter, from its entry `start` on, at offset `at` of the flat tensor."""

    flat: Tensor
    at: int
    start: int
    size: int


def partition_of(optimizer: Any, parameter: nn.Parameter) -> Partition | None:
    """The part of a parameter that this rank steps at ZeRO stages 1 and 2; None where it steps none of it."""
    mapping: Any = getattr(parameter, "_hp_mapping", None)
    if mapping is None:
        return None
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    own, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Partition(flat, own.start, whole.start, own.numel)


def shard_of(optimizer: Any, parameter: nn.Parameter) -> tuple[Tensor, int, int]:
    """At ZeRO stage 3: the flat tensor, the offset of this rank's shard in it, and the shard's size with padding."""
    group, at, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    return optimizer.fp32_partitioned_groups_flat[group], at, size
