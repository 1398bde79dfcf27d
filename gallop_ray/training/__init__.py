"""What runs inside a worker: DeepSpeed, one run, its checks."""
