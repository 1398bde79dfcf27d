"""The driver process: one sweep from start to end, as trials of Ray Tune that lease slots."""
