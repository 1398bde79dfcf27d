"""Tasks: examples from the hub, a folder or a generator, as tokens; answers, accuracy and the metrics made of it."""
