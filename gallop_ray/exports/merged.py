"""A trained model as an ordinary transformers folder, independent of how it was trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gallop_ray.disk.tensors import DELTA, FULL, HYBRID, PEFT
from gallop_ray.exports.peft_folder import attach_peft
from gallop_ray.exports.request import Request
from gallop_ray.methods.hybrid import tensors_of_parts
from gallop_ray.methods.peft import PeftAttachment
from gallop_ray.sparse.adapter import add_delta, apply_adapter, refuse_misfit, refuse_other_base, refuse_other_settings
from gallop_ray.sparse.checked import load_whole
from gallop_ray.training.models import load_model


def write_merged(request: Request, folder: Path) -> None:
    """Write weights and configuration. Raises ValueError where the base model is not the run's."""
    model, _ = load_model(request.model)
    # Not save_model: a mixture's experts get the names of the checkpoint back, which other programs read.
    merged(model, request).save_pretrained(folder)


def merged(model: Any, request: Request) -> Any:
    """The base model, changed in place into what the run trained. Raises ValueError as write_merged."""
    return _MERGE[request.metadata["format"]](model, request)


def _merge_delta(model: Any, request: Request) -> Any:
    apply_adapter(model, request.run.adapter)
    return model


def _merge_peft(model: Any, request: Request) -> Any:
    refuse_other_base(model, request.run.adapter, request.metadata)
    saved, _ = load_whole(request.run.adapter)
    return _merged(attach_peft(model, request, saved), saved)


def _merge_hybrid(model: Any, request: Request) -> Any:
    refuse_other_base(model, request.run.adapter, request.metadata)
    delta, saved = tensors_of_parts(load_whole(request.run.adapter)[0])
    weights = dict(model.named_parameters())
    refuse_misfit(request.run.adapter, delta, {name: weight.numel() for name, weight in weights.items()})
    # As in the run: the tuner is made from the base, and the delta lies under it.
    attachment = attach_peft(model, request, saved)
    add_delta(weights, delta)
    return _merged(attachment, saved)


def _merged(attachment: PeftAttachment, saved: Mapping[str, Tensor]) -> Any:
    attachment.fill(saved)
    module: Any = attachment.module
    return module.merge_and_unload()


@torch.no_grad()
def _load_full(model: Any, request: Request) -> Any:
    trained, parameters = load_whole(request.run.adapter)[0], dict(model.named_parameters())
    if {n: (t.shape, t.dtype) for n, t in trained.items()} != {n: (p.shape, p.dtype) for n, p in parameters.items()}:
        raise ValueError(
            f"{request.model.name} is not of the architecture and dtype that {request.run.adapter} was trained on; "
            "put the base model back as it was"
        )
    refuse_other_settings(model, request.run.adapter, request.metadata)
    for name, weight in trained.items():
        parameters[name].copy_(weight)
    return model


_MERGE: dict[str, Callable[[Any, Request], Any]] = {
    DELTA: _merge_delta,
    PEFT: _merge_peft,
    FULL: _load_full,
    HYBRID: _merge_hybrid,
}
