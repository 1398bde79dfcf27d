"""The only module of this package that uses DeepSpeed: one engine after another on the same loaded model."""

import difflib
import gc
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gallop_ray.compat.deepspeed import deepspeed, forget_engine, skip_compiled_communication, with_torch_linear
from gallop_ray.sparse.base_state import Structure
from gallop_ray.sparse.weights import gather, is_split
from gallop_ray.spec.machine import DeepspeedSpec
from gallop_ray.spec.problems import first_line
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.training.determinism import make_deterministic
from gallop_ray.training.optimizer_state import OptimizerState


def quiet() -> None:
    """Keep DeepSpeed's progress chatter out of the logs, and what other packages say of each other's future."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    for module in ("torch.distributed", "transformers"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)


def zero_stage(spec: DeepspeedSpec, dtype: torch.dtype) -> int:
    """The stage that is used: bfloat16 at stage 0 runs as stage 1, because only ZeRO keeps float32 masters."""
    return 1 if spec.zero_stage == 0 and dtype == torch.bfloat16 else spec.zero_stage


def deepspeed_config(
    spec: DeepspeedSpec,
    training: TrainingSpec,
    dtype: torch.dtype,
    workers: int,
    trained: int,
    micro_steps: int | None = None,
) -> dict[str, Any]:
    """The DeepSpeed configuration of a run that trains `trained` parameters on `workers` ranks.

    The user's `extra` is merged in, but never overrides what the run depends on. Raises ValueError for a batch that the
    micro-batches of all ranks do not divide: DeepSpeed would step in the middle of it.
    """
    at_once = training.micro_batch_size * workers
    if trained and training.batch_size % at_once:
        product = f"micro_batch_size x workers = {training.micro_batch_size} x {workers} = {at_once}"
        raise ValueError(f"batch_size {training.batch_size} must be a multiple of {product}")
    # DeepSpeed's default buckets take 2 GB per step; they need not be larger than what is trained. Sizes must be even.
    bucket = min(1024 * math.ceil(max(trained, 1) / 1024), 500_000_000)
    defaults = {"zero_optimization": {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}}
    zero: dict[str, Any] = {"stage": zero_stage(spec, dtype)}
    if zero["stage"] == 3:
        # Else ZeRO-3 keeps complete copies of small parameters, which writes into the shards do not reach: updates
        # would take effect one step late.
        zero["stage3_param_persistence_threshold"] = 0
    if spec.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if spec.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    needed = {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": micro_steps or max(1, training.batch_size // at_once),
        "gradient_clipping": training.clip_norm or 0.0,
        "zero_optimization": zero,
        # Otherwise DeepSpeed refuses optimizers outside of its own list, and with offload all but its CPU Adam.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    return _merged(_merged(defaults, spec.extra), needed)


class _Sections(dict[str, Any]):
    """A configuration that records which sections are looked up."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.sections = {key: _Section(value) for key, value in config.items() if type(value) is dict}
        super().__init__({**config, **self.sections})
        self.known = set[object]()

    def __getitem__(self, key: str) -> Any:
        self.known.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.known.add(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As dict.get, recorded."""
        self.known.add(key)
        return super().get(key, default)


class _Section(_Sections):
    """One inside it, of which all is known once it is read as a whole, by **: whoever does that checks the names."""

    def __iter__(self) -> Iterator[str]:
        self.known.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As dict.keys, recorded."""
        self.known.update(super().keys())
        return super().keys()

    def items(self) -> Any:
        """As dict.items, recorded."""
        self.known.update(super().keys())
        return super().items()


def refuse_extra(spec: DeepspeedSpec, training: TrainingSpec, dtype: torch.dtype, workers: int) -> None:
    """Raises ValueError, in one line, for an `extra` that DeepSpeed would refuse when it starts, or never read."""
    if not spec.extra:
        return
    # With 0 trained parameters no batch size is checked: each configuration may have its own.
    sections = _Sections(deepspeed_config(spec, training, dtype, workers, 0))
    try:
        deepspeed.DeepSpeedConfig(sections)
    except Exception as error:  # of many classes, assertions and TypeErrors among them
        raise ValueError(f"deepspeed.extra: DeepSpeed refuses it: {_reason(error)}") from error
    # DeepSpeed ignores what it does not know: what it never looks up is misspelt.
    _refuse_unread(spec.extra, sections, "section ")
    for name, section in spec.extra.items():
        inner = sections.sections.get(name)
        if isinstance(section, Mapping) and inner is not None and inner.known:
            _refuse_unread(section, inner, f"{name}.")
    _refuse_dtypes(sections, dtype)


def _refuse_unread(given: Mapping[str, Any], looked_up: _Sections, where: str) -> None:
    if unknown := [name for name in given if name not in looked_up.known]:
        close = difflib.get_close_matches(unknown[0], map(str, looked_up.known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"deepspeed.extra: DeepSpeed has no {where}{unknown[0]}{hint}")


def _refuse_dtypes(config: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Raises ValueError for types that only an engine refuses, or that give an optimizer whose state is not ours."""
    types, zero = config.get("data_types") or {}, config["zero_optimization"]
    found = {name: _type_of(f"data_types.{name}", value) for name, value in types.items() if value is not None}
    if found.get("param_dtype", dtype) != dtype:
        raise ValueError("deepspeed.extra: data_types.param_dtype is not model.dtype; leave it out")
    if (summed := found.get("grad_accum_dtype", dtype)) == dtype:
        return
    if zero["stage"] == 0:
        raise ValueError(f"deepspeed.extra: DeepSpeed sums no gradients in {summed} at zero_stage 0; use zero_stage 2")
    if (zero["stage"], dtype, summed) == (1, torch.bfloat16, torch.float32) and "offload_optimizer" not in zero:
        raise ValueError(
            "deepspeed.extra: grad_accum_dtype fp32 with bfloat16 weights is not allowed at zero_stage 1, where "
            "DeepSpeed takes an optimizer that checkpoints cannot read; use zero_stage 2"
        )


def _type_of(name: str, value: object) -> torch.dtype:
    try:
        found: torch.dtype = deepspeed.runtime.config.DtypeEnum(value).value
        return found
    except ValueError:
        raise ValueError(f"deepspeed.extra: {name}: {value!r} is not allowed; give fp32, bf16 or fp16") from None


def _reason(error: Exception) -> str:
    """The first wrong field, where pydantic names it; else the error's first line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated with `over`, recursively."""
    merged = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], Mapping) and isinstance(over[key], Mapping):
            merged[key] = _merged(base[key], over[key])
    return merged


def init_distributed() -> None:
    """Have DeepSpeed use torch's existing process group, and make torch's kernels deterministic."""
    make_deterministic()
    if not deepspeed.comm.is_initialized():
        skip_compiled_communication()
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())


def split_over_ranks(model: nn.Module, config: Mapping[str, Any]) -> None:
    """ZeRO-3: keep only this rank's shard of every parameter. Done once in a model's lifetime."""
    deepspeed.zero.Init(module=model, config_dict_or_path=dict(config))


@contextmanager
def complete(model: nn.Module) -> Iterator[None]:
    """Context manager: every rank has all weights, to differentiate by them more than once. Collective.

    An engine fetches them layer by layer, and gives them away after the first derivative.
    """
    split = [p for p in model.parameters() if is_split(p)]
    empty = [p.data for p in split]
    try:
        for p in split:
            p.data = gather(p).to(p.device)
        with with_torch_linear():
            yield
    finally:
        for p, before in zip(split, empty, strict=True):
            p.data = before


class Engine:
    """A DeepSpeed engine on a module, for one run or one evaluation.

    close() removes everything of it from the module, so that the next one starts clean.
    """

    def __init__(self, module: nn.Module, config: Mapping[str, Any], optimizer: torch.optim.Optimizer | None) -> None:
        self.module = module
        self._before: Structure | None = Structure(module)
        # LoRA's matrices and the like, added after the base was split: this engine splits them, and they outlive it.
        self._unsplit = [p for p in module.parameters() if not is_split(p)]
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        try:
            self._engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=dict(config))
        except BaseException:  # half-way through its hooks are on the module already
            self._before.restore()
            raise
        if optimizer is not None:
            self.state([p for p in module.parameters() if p.requires_grad]).clear_padding()

    def __call__(self, **inputs: Tensor) -> Any:
        """A forward pass for training."""
        return self._engine(**inputs)

    def backward(self, loss: Tensor) -> None:
        """One micro-batch's backward pass; DeepSpeed divides by the number of accumulation steps."""
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> bool:
        """Count a micro-batch; step the optimizer at the last one of a batch. Returns whether it stepped."""
        # Before step(), which advances the counter that this reads.
        boundary = bool(self._engine.is_gradient_accumulation_boundary())
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return boundary

    def gradients(self, parameters: Sequence[nn.Parameter], clip_norm: float | None) -> list[Tensor]:
        """Of all trained parameters what the next step() will take: averaged over the ranks, clipped, complete float32.

        After the last backward pass of a batch. Collective.
        """
        found = [deepspeed.utils.safe_get_full_grad(p) for p in parameters]
        assert all(gradient is not None for gradient in found), "a parameter without a gradient, or before backward()"
        whole = [gradient.detach().to(torch.float32, copy=True) for gradient in found]
        if clip_norm:
            norm = torch.stack([gradient.norm() for gradient in whole]).norm()
            share = (clip_norm / (norm + 1e-6)).clamp(max=1)  # as torch and DeepSpeed clip
            whole = [gradient * share for gradient in whole]
        return whole

    def state(self, parameters: Sequence[nn.Parameter]) -> OptimizerState:
        """The optimizer's state of these trained parameters."""
        return OptimizerState(self._engine, parameters)

    @property
    def grad_norm(self) -> float | None:
        """The gradient's norm before clipping, of the last step; None where DeepSpeed has not computed it."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def keep_whole(self) -> None:
        """Gather what this engine has split, for close() to restore: ZeRO-3's shards are freed with it. Collective."""
        self._kept = [(p, gather(p).clone()) for p in self._unsplit if is_split(p)]

    def drop_gathered(self) -> None:
        """Under ZeRO-3, drop fetched complete weights, which may be kept for a backward pass."""
        if self._engine.zero_optimization_partition_weights():
            self._engine.empty_partition_cache()

    def close(self) -> None:
        """Remove DeepSpeed from the module and free the optimizer."""
        self.drop_gathered()
        self._engine.destroy()
        # destroy() leaves hooks and attributes on modules and parameters, which another engine would use.
        assert self._before is not None, "an engine is closed once"
        self._before.restore()
        forget_engine(self._engine)
        for parameter, values in self._kept:
            parameter.data = values
        self._before, self._unsplit, self._kept = None, [], []
        del self._engine
        gc.collect()  # engine and hooks refer to each other: without this their memory outlives the run
