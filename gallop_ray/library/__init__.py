"""Masks outside of a sweep: in plain PyTorch, transformers' Trainer or Accelerate. `gallop_ray.sparse` offers it."""
