"""An adapter as the folder that `PeftModel.from_pretrained` loads."""

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from gallop_ray.disk.tensors import DELTA, PEFT
from gallop_ray.exports.lora import to_lora
from gallop_ray.exports.request import Request
from gallop_ray.exports.shira import to_shira
from gallop_ray.sparse.adapter import apply_adapter, load_adapter, refuse_misfit, refuse_other_base
from gallop_ray.sparse.checked import load_whole
from gallop_ray.training.merged import attach_peft
from gallop_ray.training.model_checks import first_line
from gallop_ray.training.models import load_model, meta_model, model_source

_KINDS = ("indices", "delta")


def write_peft(request: Request, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors. Raises ValueError as `to_shira`."""
    _refuse_changed_base(request)
    config, tensors = _CONVERT[request.metadata["format"]](request)
    _write(request, folder, config, tensors)
    if request.metadata["format"] == PEFT:
        # PEFT cannot resize the layers of an AdaLoRA adapter on the meta device.
        whole = getattr(config, "rank_pattern", None)
        _refuse_unread(request, folder, load_model(request.model)[0] if whole else meta_model(request.model))


def write_lora(request: Request, folder: Path) -> None:
    """The same files of a LoRA adapter that approximates the delta; says how well. Raises ValueError as `to_lora`."""
    _refuse_changed_base(request)
    model, found = _delta(request)
    try:
        config, tensors, how_well = to_lora(model, found, request.rank)
    except ValueError as error:
        raise ValueError(f"{request.run.path} has no LoRA form: {error}; use --to merged or --to delta") from None
    _write(request, folder, config, tensors, {"approximation": str(how_well)})
    print(how_well, file=sys.stderr)


def _refuse_changed_base(request: Request) -> None:
    """Raise ValueError unless the model that the folder names is still the one that the run was trained on.

    PEFT puts the adapter onto whatever lies there.
    """
    model, _ = load_model(request.model)
    refuse_other_base(model, request.run.adapter, request.metadata)


def _write(
    request: Request, folder: Path, config: Any, tensors: dict[str, Tensor], more: Mapping[str, str] | None = None
) -> None:
    config.base_model_name_or_path = model_source(request.model.name)
    config.revision = request.model.revision
    config.task_type = peft.TaskType.CAUSAL_LM
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set, whose order would change between exports
    config.save_pretrained(str(folder))
    metadata = {**request.metadata, **(more or {}), "format": "pt"}
    save_file(tensors, folder / "adapter_model.safetensors", metadata=metadata)


def _refuse_unread(request: Request, folder: Path, model: Any) -> None:
    """Raise ValueError where PEFT would drop parts of what was written, which it only warns about.

    It renames the weights of some models while reading them, and then does not find them.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            peft.PeftModel.from_pretrained(model, str(folder))
        except Exception as error:  # where it takes names for those of an earlier transformers, sizes do not fit
            reason = first_line(error)
            raise ValueError(
                f"{request.run.path} has no PEFT form that PEFT reads ({reason}); use --to merged"
            ) from error
    lost = [text for each in said if "missing adapter keys" in (text := str(each.message))]
    if lost:
        name = lost[0].partition("'")[2].partition("'")[0]
        raise ValueError(f"{request.run.path} has no PEFT form that PEFT reads: it loses {name}; use --to merged")


def _from_peft(request: Request) -> tuple[Any, dict[str, Tensor]]:
    saved = load_whole(request.run.adapter)[0]
    return attach_peft(meta_model(request.model), request.metadata, saved).exported(saved, request.metadata)


def _delta(request: Request) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
    """The base model without its weights, and the delta, which fits it."""
    found, _ = load_adapter(request.run.adapter)
    model = meta_model(request.model)
    refuse_misfit(request.run.adapter, found, {name: weight.numel() for name, weight in model.named_parameters()})
    return model, found


def _from_delta(request: Request) -> tuple[Any, dict[str, Tensor]]:
    model, found = _delta(request)
    tensors = {f"{name}.{kind}": t for name, pair in found.items() for kind, t in zip(_KINDS, pair, strict=True)}
    dtype = getattr(torch, request.model.dtype)
    try:
        return to_shira(model, tensors, dtype.itemsize, _Trained(request))
    except ValueError as error:
        raise ValueError(f"{request.run.path} has no PEFT form: {error}; use --to merged or --to delta") from None


class _Trained:
    """A layer's parameters as they were trained; the model is loaded when the first is asked for."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @cached_property
    def _model(self) -> Any:
        model, _ = load_model(self._request.model)
        apply_adapter(model, self._request.run.adapter)
        return model

    def __call__(self, name: str) -> dict[str, Tensor]:
        layer = self._model.get_submodule(name)
        return {part: tensor.detach().clone() for part, tensor in layer.named_parameters()}


_CONVERT: dict[str, Callable[[Request], tuple[Any, dict[str, Tensor]]]] = {DELTA: _from_delta, PEFT: _from_peft}
