"""Sweeps in a bucket: the bucket is the truth, and every machine has copies of what it needs in a folder."""
