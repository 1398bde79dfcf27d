"""A trained model: the base with what a saved adapter has trained in its weights."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gallop_ray.disk.tensors import DELTA, FULL, HYBRID, PEFT, metadata_of
from gallop_ray.methods import make_method
from gallop_ray.methods.hybrid import Hybrid, tensors_of_parts
from gallop_ray.methods.peft import PeftAttachment, PeftMethod
from gallop_ray.sparse.adapter import add_delta, apply_adapter, refuse_misfit, refuse_other_base, refuse_other_settings
from gallop_ray.sparse.candidates import note_reached
from gallop_ray.sparse.checked import load_whole
from gallop_ray.spec.schema import Configuration

_ROOT = "base_model.model."  # what PEFT puts before the names of the model's modules
_Metadata = Mapping[str, str]


def merged(model: Any, adapters: Sequence[Path]) -> Any:
    """The base model, whole and in memory, changed in place into what these adapters say, each trained on those before.

    Raises ValueError where a model is not the base that the next adapter's metadata names, OSError where an adapter
    cannot be read.
    """
    for adapter in adapters:
        metadata = metadata_of(adapter)
        model = _MERGE[metadata["format"]](model, adapter, metadata)
    return model


def attach_peft(model: Any, metadata: _Metadata, trained: Collection[str]) -> PeftAttachment:
    """The attachment of an adapter's method to `model`, with the parameters as before training.

    trained: the names of its parameters on disk, which show the modules that text reached in the run.
    """
    modules = (name for name, _ in model.named_modules())
    note_reached(model, [name for name in modules if any(each.startswith(f"{_ROOT}{name}.") for each in trained)])
    method = make_method(Configuration.model_validate_json(metadata["configuration"]).method)
    if isinstance(method, Hybrid):
        method = method.tuner
    assert isinstance(method, PeftMethod)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(metadata["seed"]))  # some tuners draw projections and do not save them
        return method.attach_again(model)


def _merge_delta(model: Any, adapter: Path, metadata: _Metadata) -> Any:
    apply_adapter(model, adapter)
    return model


def _merge_peft(model: Any, adapter: Path, metadata: _Metadata) -> Any:
    refuse_other_base(model, adapter, metadata)
    saved, _ = load_whole(adapter)
    return _with_tuner(attach_peft(model, metadata, saved), saved)


def _merge_hybrid(model: Any, adapter: Path, metadata: _Metadata) -> Any:
    refuse_other_base(model, adapter, metadata)
    delta, saved = tensors_of_parts(load_whole(adapter)[0])
    weights = dict(model.named_parameters())
    refuse_misfit(adapter, delta, {name: weight.numel() for name, weight in weights.items()})
    # As in the run: the tuner is made from the base, and the delta lies under it.
    attachment = attach_peft(model, metadata, saved)
    add_delta(weights, delta)
    return _with_tuner(attachment, saved)


def _with_tuner(attachment: PeftAttachment, saved: Mapping[str, Tensor]) -> Any:
    attachment.fill(saved)
    module: Any = attachment.module
    return module.merge_and_unload()


@torch.no_grad()
def _load_full(model: Any, adapter: Path, metadata: _Metadata) -> Any:
    trained, parameters = load_whole(adapter)[0], dict(model.named_parameters())
    if {n: (t.shape, t.dtype) for n, t in trained.items()} != {n: (p.shape, p.dtype) for n, p in parameters.items()}:
        raise ValueError(
            f"the base model is not of the architecture and dtype that {adapter} was trained on; "
            "put the base model back as it was"
        )
    refuse_other_settings(model, adapter, metadata)
    for name, weight in trained.items():
        parameters[name].copy_(weight)
    return model


_MERGE: dict[str, Callable[[Any, Path, _Metadata], Any]] = {
    DELTA: _merge_delta,
    PEFT: _merge_peft,
    FULL: _load_full,
    HYBRID: _merge_hybrid,
}
