"""A model as an ordinary transformers folder."""

from pathlib import Path
from typing import Any

import safetensors.torch


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
