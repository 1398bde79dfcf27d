"""A best configuration at an edge is said wherever one is named, and what a sweep cannot say before it runs."""

from pathlib import Path
from typing import Any

import pytest

from gallop_ray.analysis.advice import advice
from gallop_ray.analysis.status import StatusReader
from gallop_ray.analysis.verdict import seeds_to_find
from gallop_ray.cli import main
from gallop_ray.reporting.report.material import gather
from gallop_ray.reporting.report.notes import notes
from gallop_ray.reporting.status import render
from gallop_ray.reporting.summary import print_summary
from gallop_ray.spec.schema import Sweep
from tests.sweep.written import Written, small_sweep

RATES = (0.1, 0.2, 0.4)
EDGE = (
    "gallop's learning_rate 0.4 is at the highest end of {choice: [0.1, 0.2, 0.4]}; widen gallop.training.learning_rate"
)


def written(tmp: Path, best: float) -> Written:
    """gallop is best at one of three learning rates."""
    made = Written(small_sweep(tmp, search={"space": {"gallop.training.learning_rate": {"choice": list(RATES)}}}))
    base = {task: {way: {"likelihood": 0.5} for way in ("test", "validation")} for task in ("range", "max")}
    made.folder.write_base(base, {}, {}, None)
    for rate in RATES:
        for seed in (0, 1):
            made.end(made.begin("gallop", rate, seed), 0.8 if rate == best else 0.6)
    for seed in (0, 1):
        made.end(made.begin("random", 0.1, seed), 0.5)
    made.folder.rebuild_results()
    return made


def said(made: Written, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What each place says of the sweep, on one line."""
    material = gather(made.folder, made.sweep)
    capsys.readouterr()
    print_summary(made.folder, made.sweep)
    table = capsys.readouterr().out
    assert main(["best", str(made.folder.path)]) == 0
    best = capsys.readouterr().out
    assert main(["status", str(made.folder.path)]) == 0
    status = capsys.readouterr().out
    places = {"table": table, "best": best, "status": status, "report": "\n".join(notes(material))}
    return {place: " ".join(text.split()) for place, text in places.items()}


def test_the_edge_is_said_in_table_report_best_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = written(tmp_path, best=0.4)
    places = said(made, capsys)
    assert [place for place, text in places.items() if EDGE not in text] == []
    assert "gallop^ 2" in places["table"]
    assert "2 seeds are too few for a verdict: it takes 3 or more, and with 2 methods 5" in places["best"]
    assert "validation data of the OOD tasks (max): OOD accuracy and forgetting are those of" in places["best"]
    status = StatusReader(made.folder, made.sweep).look()
    assert status.best is not None
    assert status.best == status.methods["gallop"].best
    assert status.best.edges == (EDGE,)
    assert render(status) is not None


def test_a_best_inside_its_range_is_no_edge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = said(written(tmp_path, best=0.2), capsys)
    assert [place for place, text in places.items() if "end of" in text or "^" in text] == []


def asked(**changes: Any) -> Sweep:
    smallest = {"name": "small", "model": {"name": "pocket"}, "data": {"train": "sum", "ood": ["max", "min"]}}
    return Sweep.model_validate({**smallest, "methods": [{"type": "gallop"}, {"type": "lora"}], **changes})


RATE = {"training.learning_rate": {"log": [1e-4, 1e-2]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 2}, "no verdict is possible with 2 seeds: it takes 3 or more, and with 2 methods 5 to find"),
        ({"seeds": 5, "confirmation": {"seeds": 1}}, "no verdict is possible with 1 seed:"),
        ({"seeds": 3}, "the verdict has 3 seeds: it takes 3 or more"),
        ({"search": {"space": RATE}}, "8 configurations of gallop and lora 4 are drawn blindly, and from number 5 on"),
        (
            {"search": {"space": RATE}, "budget": {"configurations": 2}},
            "none is chosen by results",
        ),
        ({"search": {"space": {"lora.rank": {"choice": [4, 8, 16]}}}}, "lora: the rank is searched with alpha fixed"),
        ({"search": {"space": {"lora.rank": {"choice": [4, 8]}}}}, "lora.rank: of two values the best is always at an"),
        (
            {
                "search": {"sampler": "grid", "space": {"training.learning_rate": {"choice": [1e-4, 1e-3, 1e-2]}}},
                "budget": {"configurations": 2},
            },
            "gallop: budget.configurations 2 cuts its grid of 3 points: learning_rate 0.01 never; raise it",
        ),
        (
            {},
            "The search goes by val_mean_accuracy, so it sees validation data of the OOD tasks (max and min):",
        ),
        (
            {"objective": {"metrics": ["val_id_accuracy", "val_forget_ratio"]}},
            "The search goes by val_forget_ratio",
        ),
    ],
)
def test_what_is_to_be_known_before_a_sweep_runs(changes: dict[str, Any], words: str) -> None:
    assert [sentence for sentence in advice(asked(**changes)) if words in sentence] != []


def test_a_grid_too_large_to_look_through_is_counted_at_once() -> None:
    space = {"lora.rank": {"integer": [1, 10**9]}, "training.epochs": {"choice": [1, 2, 3]}}
    cut = asked(search={"sampler": "grid", "space": space}, budget={"configurations": 4})
    assert any(
        "lora: budget.configurations 4 cuts its grid of 3000000000 points; raise it" in said for said in advice(cut)
    )


def test_nothing_is_said_where_nothing_is_to_be_known() -> None:
    ratio = {"space": {"lora.rank": {"choice": [4, 8, 16]}}}
    quiet = asked(
        methods=[{"type": "lora", "alpha_over_rank": 2}], search=ratio, objective={"metric": "val_id_accuracy"}
    )
    assert advice(quiet) == []


def test_validate_plan_and_run_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: small\nmodel: {name: pocket}\ndata: {root: generated, train: sum, ood: [max]}\n"
                    "methods: [{type: gallop}, {type: lora}]\nseeds: 2\n")  # fmt: skip
    assert main(["validate", str(path)]) == 0
    assert "note: no verdict is possible with 2 seeds" in capsys.readouterr().out


def test_more_methods_take_more_seeds() -> None:
    """By the noncentral t distribution: all the tests that the best one needs, with a power of 0.8 together."""
    assert [seeds_to_find(methods) for methods in (2, 4, 17)] == [5, 6, 7]
