"""What runs in each worker: DeepSpeed, one run from start to end, and its checks."""
