"""A model as an ordinary transformers folder."""

from pathlib import Path
from typing import Any

import safetensors.torch

from gallop_ray.importing import without


def save_model(model: Any, folder: Path) -> None:
    """Write weights and configurations.

    Not by save_pretrained, which writes the weights on rank 0 only: a node's folder is prepared by whichever of its
    ranks comes first.
    """
    # What else save_pretrained does.
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    # save_model, because save_file refuses tied weights.
    safetensors.torch.save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


def save_for_others(model: Any, folder: Path) -> None:
    """As transformers does: a mixture's experts get the names of the checkpoint back, which other programs read."""
    with without("deepspeed"):  # accelerate imports it to ask whether the model is an engine's: seconds, and a warning
        model.save_pretrained(folder)
