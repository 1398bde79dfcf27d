"""Checks before anything is spent: `doctor`, `plan`, a sweep against machine, model and data."""
