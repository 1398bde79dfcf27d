"""What the files of a model folder show by themselves, without torch or transformers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gallop_ray.spec.problems import did_you_mean

MODEL_PRESETS = ("pocket", "smollm2-135m")
_LFS = b"version https://git-lfs"
WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = ("tokenizer*", "vocab.*", "*.model", "*.tiktoken")
# Decoders that look positions up in a table, which is finite.
_POSITION_TABLES = ("gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt", "biogpt", "codegen", "gptj", "ctrl")
_DOWNLOAD_AGAIN = "download it again"


def name_problem(name: str) -> str | None:
    """Why a name can be no model, and the fix: it is no preset, no folder and no hub id; None for what may be one."""
    path = Path(name).expanduser()
    if name in MODEL_PRESETS or path.is_dir():
        return None
    if path.is_file():
        return f"model {name} is a file; give the folder that holds config.json, weights and tokenizer"
    if name.startswith((".", "/", "~")):
        return f"model folder {name} does not exist on this machine"
    if "/" in name:
        return None
    return (
        f"unknown model {name}: neither a preset ({', '.join(MODEL_PRESETS)}) nor a folder"
        f"{did_you_mean(name, MODEL_PRESETS)}; a hub id has an owner, as in openai-community/gpt2"
    )


def folder_problem(folder: Path) -> str | None:
    """Why the model in this folder cannot be loaded, and the fix; None where its files show no reason."""
    checks: tuple[Callable[[Path], Iterator[str]], ...] = (_pointers, _lacking, _kind, _shards, _cut)
    return next((problem for check in checks for problem in check(folder)), None)


def quantised(config: Any) -> str | None:
    """How the weights are quantised according to config.json, as a dictionary; None where they are not."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    return str((found.get("quant_method") if isinstance(found, dict) else found) or "quantised")


def position_table(config: Any) -> int | None:
    """The number of positions of a model with a table of them, by config.json as a dictionary; None if unlimited."""
    if config.get("model_type") not in _POSITION_TABLES:
        return None
    found = (config.get(key) for key in ("max_position_embeddings", "n_positions"))
    return next((each for each in found if type(each) is int and each > 0), None)


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json; empty where it cannot be read."""
    try:
        value = _read_json(folder / "config.json")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_json(file: Path) -> Any:
    """A file's content. Raises ValueError for one that cannot be read, whatever the reason."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError) as error:
        raise ValueError(getattr(error, "strerror", None) or "nested too deeply") from error


def _pointers(folder: Path) -> Iterator[str]:
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        with file.open("rb") as opened:
            if opened.read(len(_LFS)) == _LFS:
                yield f"{file.name} is a Git LFS pointer, not the file itself; run `git lfs pull` in the folder"


def _lacking(folder: Path) -> Iterator[str]:
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        yield "it is a PEFT adapter, not a model; merge it into its base model and give the merged folder"
    found = {
        "config.json": (folder / "config.json").exists(),
        "weights (*.safetensors)": any(any(folder.glob(each)) for each in WEIGHTS),
        "a tokenizer": any(any(folder.glob(each)) for each in _TOKENIZER),
    }
    if lacking := [what for what, there in found.items() if not there]:
        fix = "save all of it: model.save_pretrained(FOLDER), tokenizer.save_pretrained(FOLDER)"
        yield f"it lacks {', '.join(lacking)}; {fix}"


def _kind(folder: Path) -> Iterator[str]:
    try:
        config = _read_json(folder / "config.json")
    except ValueError as error:
        yield f"config.json is not valid JSON ({error}); {_DOWNLOAD_AGAIN}, or correct it"
        return
    if not isinstance(config, dict) or not config.get("model_type"):
        yield "config.json does not say the model_type; take the file that came with the model"
        return
    yield from refused_kind(config)


def refused_kind(config: Any) -> Iterator[str]:
    """Reasons why models of this kind cannot be tuned, by config.json as a dictionary."""
    if how := quantised(config):
        yield f"its weights are quantised ({how}), and such weights cannot be trained; give the unquantised model"
    if config.get("is_encoder_decoder"):
        yield "it is an encoder-decoder model; give a decoder (a causal language model)"


def _shards(folder: Path) -> Iterator[str]:
    """An index names files: all must be there."""
    for index in folder.glob("*.index.json"):
        try:
            named = set(map(_name, _read_json(index)["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            yield f"{index.name} cannot be read; {_DOWNLOAD_AGAIN}"
            return
        if absent := sorted(name for name in named if not (folder / name).exists()):
            yield f"{index.name} names {len(absent)} files that are not there, first {absent[0]}; {_DOWNLOAD_AGAIN}"


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a shard's name must be text")
    return value


def _cut(folder: Path) -> Iterator[str]:
    """A safetensors file says in its header how long it is."""
    for file in sorted(folder.glob("*.safetensors")):
        if not file.is_file():
            yield f"{file.name} is {'a link to nothing' if file.is_symlink() else 'no file'}; {_DOWNLOAD_AGAIN}"
        elif file.stat().st_size != _safetensors_size(file):
            yield f"{file.name} is not whole, as after a download that broke off; {_DOWNLOAD_AGAIN}"


def _safetensors_size(file: Path) -> int | None:
    """The size by the header: 8 bytes with its length, the header, and the data it describes; None without a header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header: Any = json.loads(opened.read(length)) if length < file.stat().st_size else None
            ends = [int(one["data_offsets"][1]) for name, one in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
    return 8 + length + max(ends, default=0)
