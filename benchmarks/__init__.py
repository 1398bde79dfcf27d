"""Speed and memory beside those of the alternatives, measured side by side in one run: `python -m benchmarks all`."""
