"""A bucket as output: the requests that a sweep makes, and what they cost beside a folder. moto's server, on loopback.

Needs what `make dev` installs.
"""

import logging
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.arms import Measured
from benchmarks.report import row
from benchmarks.sweeps import Ran, run_elsewhere
from gallop_ray.analysis.timing import slot_times
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.data import ModelSpec
from gallop_ray.training.models import load_model

DELAY, TURNS, QUICK_TURNS = 0.02, 2, 1
SEEDS, QUICK_SEEDS = 10, 1
_BY_QUERY = {"?list-type=": "list", "?delete": "delete"}
_QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
_SHORT = {"seeds": 1, "budget": {"configurations": 1}, "training": {"steps": 4, "batch_size": 8, "max_length": 32}}


def measure(quick: bool) -> list[dict[str, Any]]:
    """The requests of 100 runs; and the quickstart in a bucket, each request 20 ms longer, against a folder."""
    load_model(ModelSpec(name="pocket"))  # made now, and not while the first arm runs
    with tempfile.TemporaryDirectory() as place:
        return [
            _requests(Path(place), QUICK_SEEDS if quick else SEEDS),
            _beside_a_folder(Path(place), _quickstart(quick), QUICK_TURNS if quick else TURNS),
        ]


def _requests(place: Path, seeds: int) -> dict[str, Any]:
    sweep = place / "requests.yaml"
    sweep.write_text(yaml.safe_dump(_of_runs(seeds)))
    with _bucket(delay=0.0) as bucket:
        ran = bucket.run(place, sweep)
        kinds = bucket.kinds()
    runs = len(ran.folder.results())
    found = {"what": "requests", "runs": runs, "seconds": round(ran.seconds, 1), **kinds}
    found["requests_per_run"] = round(sum(n for name, n in kinds.items() if not name.startswith("bytes")) / runs, 1)
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def _of_runs(seeds: int) -> dict[str, Any]:
    """Ten runs for each seed, a second or two each."""
    return {
        "name": "requests",
        "model": {"name": "pocket"},
        "data": {
            "root": "generated",
            "train": "range",
            "ood": ["max"],
            "limits": {"train": 512, "validation": 64, "test": 64},
        },
        "methods": [{"type": "gallop"}, {"type": "lora"}],
        "seeds": seeds,
        "search": {"space": {"training.learning_rate": {"choice": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]}}},
        "budget": {"configurations": 5},
        "training": {"steps": 16, "max_length": 32, "micro_batch_size": 32},
        "evaluation": {"max_new_tokens": 4},
    }


def _quickstart(quick: bool) -> dict[str, Any]:
    document = yaml.safe_load(_QUICKSTART.read_text())
    return {**document, **(_SHORT if quick else {})}


def _beside_a_folder(place: Path, document: dict[str, Any], turns: int) -> dict[str, Any]:
    """In turns, each of which begins with the other arm."""
    sweep = place / "quickstart.yaml"
    sweep.write_text(yaml.safe_dump(document))
    folders, buckets, kinds = [], [], {}
    for turn in range(turns):
        for arm in ("folder", "bucket")[:: 1 if turn % 2 == 0 else -1]:
            if arm == "folder":
                folders.append(_on_a_folder(place / f"folder-{turn}", sweep))
                continue
            with _bucket(DELAY) as bucket:
                buckets.append(bucket.run(place / f"bucket-{turn}", sweep))
                kinds = bucket.kinds()
    runs = {len(ran.folder.results()) for ran in (*folders, *buckets)}
    assert len(runs) == 1, f"all arms end the same runs: {runs}"
    label = {"sweep": "quickstart", "runs": runs.pop(), "delay": DELAY, "turns": turns}
    found = row(_middle(buckets, kinds), "a folder", _middle(folders), **label)
    print(f"the bucket's: {_seconds(buckets)}; the folder's: {_seconds(folders)}; requests: {kinds}", flush=True)
    return found


def _on_a_folder(place: Path, sweep: Path) -> Ran:
    place.mkdir()
    return run_elsewhere(place / "log", sweep, str(place), SweepFolder(place / "quickstart"))


def _middle(ran: list[Ran], counts: dict[str, int] | None = None) -> Measured:
    """slots_seconds: of all slots, from the first run's start to the last one's end; idle: outside of the phases."""
    seconds = statistics.median(each.seconds for each in ran)
    slots, idle = (statistics.median(times) for times in zip(*map(_slots, ran), strict=True))
    found = {"slots_seconds": slots, "idle_seconds": idle, **(counts or {})}
    return Measured(seconds, max(each.bytes for each in ran), found)


def _slots(ran: Ran) -> tuple[float, float]:
    times = slot_times(ran.folder).values()
    return sum(slot.wall for slot in times), sum(slot.other for slot in times)


def _seconds(ran: list[Ran]) -> str:
    words = "{:.1f} s (slots {:.1f} s, of which idle {:.1f} s)"
    return ", ".join(words.format(each.seconds, *_slots(each)) for each in ran)


class _Bucket:
    """A server, and before it a proxy that counts requests and has each take longer."""

    def __init__(self, endpoint: str, delay: float) -> None:
        from tests.bucket.server import Faulty

        self._proxy = Faulty(endpoint)
        self._proxy.fault = lambda method, path: time.sleep(delay)

    def run(self, place: Path, sweep: Path) -> Ran:
        """A sweep on a machine without copies."""
        from tests.bucket.server import BUCKET, variables

        place.mkdir(exist_ok=True)
        copies, name = place / "copies", yaml.safe_load(sweep.read_text())["name"]
        env = {**variables(self._proxy.endpoint), "GALLOP_RAY_BUCKET_CACHE": str(copies)}
        ran = run_elsewhere(place / "log", sweep, f"s3://{BUCKET}/{place.name}", SweepFolder(copies), env)
        (work,) = copies.glob(f"*/work/{name}")
        return Ran(ran.seconds, SweepFolder(work))

    def kinds(self) -> dict[str, int]:
        """How many requests there were of each kind, and their bytes with those of the answers."""
        counts: Counter[str] = Counter()
        for method, path, size in self._proxy.requests:
            kind = next((kind for words, kind in _BY_QUERY.items() if words in path), method.lower())
            counts[kind] += 1
            counts[f"bytes_{kind}"] += size
        return dict(sorted(counts.items()))

    def close(self) -> None:
        """End the proxy."""
        self._proxy.close()


@contextmanager
def _bucket(delay: float) -> Iterator[_Bucket]:
    from tests.bucket.server import s3_server  # moto and boto3 are for developers

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    with s3_server() as endpoint:
        bucket = _Bucket(endpoint, delay)
        try:
            yield bucket
        finally:
            bucket.close()
