"""Masks outside of sweeps: in plain PyTorch, transformers' Trainer or Accelerate. Exported by `gallop_ray.sparse`."""
