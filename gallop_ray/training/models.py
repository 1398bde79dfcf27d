"""Base models: presets, hub ids and folders; and the same models without weights, for planning."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.utils.logging import disable_progress_bar

from gallop_ray.disk.bucket.address import is_bucket
from gallop_ray.disk.bucket.inputs import brought, bytes_there
from gallop_ray.disk.tensors import adapter_file
from gallop_ray.sparse.adapter import apply_adapter
from gallop_ray.sparse.candidates import looking
from gallop_ray.sparse.memory import is_out_of_memory
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.model_folder import WEIGHTS, folder_problem, name_problem
from gallop_ray.training.model_checks import (
    embeddings,
    first_line,
    model_class,
    refuse_incomplete,
    refuse_kind,
    refuse_looking_ahead,
    refuse_not_finite,
)
from gallop_ray.training.presets import KNOWN_CONFIGS, PRESETS, preset_folder, preset_id
from gallop_ray.training.tokenizer_checks import fit_tokenizer

_TRIED_WHOLE = 2 * 10**9  # bytes of weights that doctor loads to look at their values


def load_model(spec: ModelSpec) -> tuple[Any, Any]:
    """The model (in evaluation mode, on the CPU, in the dtype asked for) and its tokenizer, with a padding token.

    Raises ValueError, in one line, for an unknown preset, a missing folder, a hub id that cannot be reached, and a
    model that no result could be trusted of: incomplete or broken weights, no decoder, another one's tokenizer.
    """
    model, tokenizer = _loaded(spec)
    try:
        refuse_not_finite(model)
        refuse_looking_ahead(model)
    except ValueError as error:
        raise ValueError(_cannot_load(spec.name, str(error))) from error
    if spec.delta is not None:
        _add(model, spec.delta)
    return model, tokenizer


def _add(model: Any, delta: str) -> None:
    """Make a delta a part of the base model. Raises ValueError where it does not fit."""
    try:
        apply_adapter(model, adapter_file(Path(brought(delta)).expanduser()))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.delta: {error}") from error


def try_model(spec: ModelSpec) -> tuple[Any, Any]:
    """Model and tokenizer as a run will load them, from this machine alone; errors as of `load_model`.

    Of large weights only names, types and shapes are looked at: the model is on the meta device then.
    """
    disable_progress_bar()  # nothing is downloaded here, and its bar would stand between the lines of a command
    if small_enough(spec):
        return load_model(spec)
    return _loaded(spec, device_map="meta", local_files_only=True)


def small_enough(spec: ModelSpec) -> bool:
    """Whether the weights that are on this machine, or in a bucket, are loaded whole to be tried."""
    if is_bucket(spec.name):
        return bytes_there(spec.name, WEIGHTS) <= _TRIED_WHOLE
    files = [file for each in WEIGHTS for file in _local_folder(spec).glob(each)]
    return sum(file.stat().st_size for file in files) <= _TRIED_WHOLE


def is_cached(spec: ModelSpec) -> bool:
    """Whether the weights of a hub id are on this machine."""
    return any(any(_local_folder(spec).glob(each)) for each in WEIGHTS)


def _local_folder(spec: ModelSpec) -> Path:
    source = model_source(spec.name)
    if Path(source).is_dir():
        return Path(source)
    config = huggingface_hub.try_to_load_from_cache(source, "config.json", revision=spec.revision)
    return Path(config).parent if isinstance(config, str) else Path("/nonexistent")


def _loaded(spec: ModelSpec, **where: Any) -> tuple[Any, Any]:
    source = model_source(spec.name)
    if Path(source).is_dir() and (found := folder_problem(Path(source))):
        raise ValueError(_cannot_load(spec.name, found))
    options = {"revision": spec.revision, "trust_remote_code": False}
    local = {"local_files_only": True} if where else {}
    try:
        config = AutoConfig.from_pretrained(source, **options, **local)
        refuse_kind(config)
        tokenizer = AutoTokenizer.from_pretrained(source, **options, **local)
        kind: Any = model_class(config)
        model, info = kind.from_pretrained(
            source,
            **options,
            **where,
            dtype=getattr(torch, spec.dtype),
            # What does not fit is refused below, by name.
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        refuse_incomplete(info)
        fit_tokenizer(embeddings(model), tokenizer)
    except Exception as error:  # transformers, safetensors and tokenizers raise what they like
        if is_out_of_memory(error) or isinstance(error, MemoryError):
            raise
        raise ValueError(_cannot_load(spec.name, first_line(error))) from error
    return model.eval(), tokenizer


def local_tokenizer(spec: ModelSpec) -> Any | None:
    """The model's tokenizer where it is on this machine; nothing is made, converted or downloaded for it."""
    if spec.name in PRESETS and hub_id(spec.name) is None and not preset_folder(spec.name).exists():
        return None
    try:
        return AutoTokenizer.from_pretrained(
            model_source(spec.name, weights=False),
            revision=spec.revision,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception:  # of many classes, for files that may hold anything; who needs the model is told why
        return None


def tokenizer_and_ends(spec: ModelSpec) -> tuple[Any, GenerationConfig]:
    """A model's tokenizer as runs have it, and its own generation settings; without its weights."""
    source = model_source(spec.name, weights=False)
    where: Any = {"revision": spec.revision}
    config = AutoConfig.from_pretrained(source, **where)
    tokenizer = AutoTokenizer.from_pretrained(source, **where)
    fit_tokenizer(config.get_text_config(decoder=True).vocab_size, tokenizer)
    try:
        own = GenerationConfig.from_pretrained(source, **where)
    except OSError:  # there is none
        own = GenerationConfig.from_model_config(config)
    return tokenizer, own


def meta_model(spec: ModelSpec) -> Any:
    """The model on the meta device: shapes and names, no weights. Needs no network for presets and known hub ids."""
    known = KNOWN_CONFIGS.get(spec.name)
    with torch.device("meta"):
        model = _from_config(known() if known else _config(spec), getattr(torch, spec.dtype))
        _look_at_text(model)
    return model


def _look_at_text(model: Any) -> None:
    """Note what text reaches of a model of text and images, so that a plan chooses from what a run will choose from."""
    if model.config.get_text_config(decoder=True) is model.config:
        return
    ids, whole_mask = torch.ones(1, 4, dtype=torch.long), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    # Some code looks into a mask that it makes itself, some does not take a whole one. Where neither way suits the meta
    # device, a plan takes everything for reached.
    for more in ({"attention_mask": whole_mask}, {}):
        with suppress(Exception), torch.no_grad(), looking(model):
            model(input_ids=ids, use_cache=False, **more)
            return


def model_source(name: str, weights: bool = True) -> str:
    """What transformers loads: a prepared folder for a preset, a copy of what is in a bucket, else the name itself.

    weights: whether they are read, too; what is in a bucket is copied without them if not. Raises ValueError for what
        can be no model.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if is_bucket(name):
        return brought(name, () if weights else WEIGHTS)
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if problem := name_problem(name):
        raise ValueError(problem)
    return name


def hub_id(name: str) -> str | None:
    """The hub id that a model is downloaded from; None for others, and for presets that need no download."""
    if name in PRESETS:
        return preset_id(name)
    known = is_bucket(name) or Path(name).expanduser().is_dir()
    return None if known else model_source(name)


def _cannot_load(name: str, reason: str) -> str:
    """One line with the reason, and with what to do where the reason does not say it."""
    if "trust_remote_code" in reason or "custom code" in reason:
        reason = "it comes with Python code of its own, which is not run; give a model whose class transformers has"
    elif "CONVERSION" in reason:  # the details are a table in transformers' log
        reason = "weights that belong together are missing or of other sizes (experts?); take the complete checkpoint"
    if "; " in reason:
        return f"cannot load model {name}: {reason}"
    return (
        f"cannot load model {name}: {reason}. A folder needs config.json, weights and tokenizer; a hub id needs "
        "network access or an earlier download (and HF_TOKEN where the model is gated)"
    )


def _from_config(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    kind: Any = model_class(config)
    return kind.from_config(config, dtype=dtype)


def _config(spec: ModelSpec) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            model_source(spec.name, weights=False), revision=spec.revision, trust_remote_code=False
        )
        refuse_kind(config)
    except Exception as error:  # of many classes, for a file that may hold anything
        raise ValueError(_cannot_load(spec.name, first_line(error))) from error
    return config
