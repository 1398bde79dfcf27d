"""Distributed sweeps of sparse fine-tuning of language models."""

__version__ = "0.1.0"
