"""`python -m benchmarks NAME [--quick] [--out FOLDER]`, NAME one of NAMES or ALONE, or `all` for all of NAMES."""

import argparse
import importlib
from pathlib import Path

from benchmarks.report import machine, save

NAMES = ("step", "select", "score", "packing", "evaluation", "switch", "sweep", "scale")
ALONE = ("answer", "answer_smollm2", "kernel", "gpu", "bucket")
"""Hours long, made for a GPU, or of what only developers install: no part of `all`."""


def main() -> None:
    """Run the benchmarks asked for; print their rows and write one JSON file each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Ratios to the alternatives; below 1 is better."
    )
    parser.add_argument("name", choices=[*NAMES, *ALONE, "all"])
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: shows that it runs, no more")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder of the JSON files")
    asked = parser.parse_args()
    for name in NAMES if asked.name == "all" else [asked.name]:
        before = machine()
        print(f"{name}: {before}", flush=True)
        rows = []
        for row in importlib.import_module(f"benchmarks.{name}").measure(asked.quick):
            rows.append(row)
            path = save(asked.out, name, asked.quick, before, rows)  # each time: what ends early leaves what it has
        print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
