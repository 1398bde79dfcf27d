"""What a run's adapter.safetensors says of itself, under `format` in its metadata."""

DELTA = "gallop_ray delta 1"
"""Sorted indices and float32 deltas."""
PEFT = "gallop_ray peft 1"
"""A PEFT tuner's own parameters, by PEFT's names."""
FULL = "gallop_ray full 1"
"""Every weight of the model."""
