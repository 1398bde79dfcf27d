"""The runs of a sweep as a pandas DataFrame, from which the figures are drawn."""

from collections.abc import Hashable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from gallop_ray.analysis.spread import Spread
from gallop_ray.analysis.statistics import ConfigurationStatistics
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.results import RunResult
from gallop_ray.records.typed import wrong
from gallop_ray.spec.schema import Sweep


class Results(pd.DataFrame):  # type: ignore[misc, unused-ignore]
    """One row per run that is over, with the columns of results.jsonl: a DataFrame that knows its sweep's folder.

    So do selections from it, so that figures can be drawn of some of the runs.
    """

    _metadata = ["directory"]
    directory: Path | None = None
    """The sweep's folder."""

    @property
    def _constructor(self) -> type["Results"]:
        return Results


_NEEDED = ("configuration", "method", "seed", "status")
_ALWAYS = ("configuration", "method", "seed", "stage", "status")


def results_frame(folder: SweepFolder, sweep: Sweep) -> Results:
    """The runs of a sweep that are over.

    Ordered by method as in the sweep file, then by configuration and seed: figures assign colours in this order.
    """
    results = Results(frame_of(folder.results(), [method.name for method in sweep.methods]))
    results.directory = folder.path
    return results


def frame_of(results: Iterable[RunResult], methods: Iterable[str] = ()) -> pd.DataFrame:
    """A frame of these results; methods that are not named come last."""
    place = {name: number for number, name in enumerate(methods)}
    rows = [result.flat() for result in results]
    rows.sort(key=lambda row: (place.get(row["method"], len(place)), row["configuration"], row["seed"]))
    frame = pd.DataFrame(rows)
    return frame if len(frame) else pd.DataFrame(columns=list(_ALWAYS))


def spreads_frame(configurations: Iterable[ConfigurationStatistics]) -> pd.DataFrame:
    """One row per metric of a configuration."""
    rows = [
        {"configuration": c.configuration, "method": c.method, "stage": c.stage, "metric": metric, **asdict(spread)}
        for c in configurations
        for metric, spread in c.spreads.items()
    ]
    columns = ["configuration", "method", "stage", "metric", *(field.name for field in fields(Spread))]
    return pd.DataFrame(rows, columns=columns)


def runs_in(frame: object) -> pd.DataFrame:
    """The same, if it is a frame of runs that figures can be drawn of. Raises ValueError that says what is missing."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"a figure is drawn from a sweep's folder, or from what gallop_ray.results returns of one; got a "
            f"{type(frame).__name__}"
        )
    if missing := [name for name in _NEEDED if name not in frame.columns]:
        raise ValueError(
            f"the runs to draw have no {', '.join(missing)}: select rows of gallop_ray.results, and keep its columns"
        )
    return frame


def results_of(frame: pd.DataFrame) -> list[RunResult]:
    """The results of a frame's rows. Raises ValueError for a row that is none."""
    objects = frame.astype(object)
    return list(map(_result_of, objects.where(objects.notna(), None).to_dict("records")))


def _result_of(row: dict[Hashable, Any]) -> RunResult:
    try:
        # Not strict: pandas makes integers floats in a column that has gaps.
        return RunResult.model_validate({name: each for name, each in row.items() if each is not None}, strict=False)
    except ValidationError as error:
        raise ValueError(f"a row of the runs to draw {wrong(error)}: {row.get('configuration')}") from None
