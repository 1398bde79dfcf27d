"""The tables, as a reader of a plain terminal of 100 columns sees them."""

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from gallop_ray.records.results import RunResult
from gallop_ray.reporting.table import configurations_table, final_table, markdown_table, print_whole
from gallop_ray.spec.search import ObjectiveSpec

BASE = {"val_mean_accuracy": 0.30, "id_accuracy": 0.25, "ood_accuracy": 0.40, "forget_ratio": 0.0, "collapse_rate": 0.0}


def result(configuration: str, seed: int, val: float | None, test: float = 0.5, **others) -> RunResult:
    written = {
        "configuration": configuration,
        "seed": seed,
        "method": configuration.split("-")[0],
        "status": "finished",
        "density": 0.01,
        "learning_rate": 1e-4,
        "trained_parameters": 1_345_600,
        "val_mean_accuracy": val,
        "val_forget_ratio": None if val is None else 1 - val,
        "id_accuracy": test,
        "ood_accuracy": 0.4,
        "forget_ratio": 0.1,
        "collapse_rate": None,
        **others,
    }
    return RunResult.model_validate(written)


RESULTS = [
    *[result("gallop-a", seed, val, val + 0.1) for seed, val in enumerate((0.60, 0.64, 0.62))],
    *[result("gallop-b", seed, val) for seed, val in enumerate((0.50, 0.52, 0.51))],
    result("gallop-lucky", 0, 0.99),
    result("lora-c", 0, 0.70, density=None),
    result("lora-c", 1, None, status="failed", density=None, trained_parameters=None),
    result("full-d", 0, None, status="diverged"),
]


def show(table: Table, width: int = 100) -> list[str]:
    output = StringIO()
    Console(file=output, width=width, no_color=True).print(table)
    return output.getvalue().splitlines()


def cells(lines: list[str], name: str) -> list[str]:
    found = [line for line in lines if line.startswith(name)]
    assert len(found) == 1, lines
    return found[0].removeprefix(name).split()


def test_each_method_has_its_best_configuration_as_mean_and_deviation_over_seeds():
    lines = show(final_table(RESULTS, BASE))
    assert cells(lines, "base model") == ["30.0", "25.0", "40.0", "0.0", "0.0"]
    assert cells(lines, "gallop") == [
        "3", "1", "0.0001", "1.35M", "62.0", "72.0±2.0", "40.0±0.0", "10.0±0.0", "-",
    ]  # fmt: skip
    assert cells(lines, "lora") == ["1/2", *["-"] * 8]  # all that it has has failed
    assert cells(lines, "full") == ["0/1", *["-"] * 8]


def test_rows_come_by_objective_after_the_base_model():
    lines = show(final_table(RESULTS, BASE))
    first_words = [line.split()[0] for line in lines if line.split() and line.split()[0] in ("base", "gallop", "lora")]
    assert first_words == ["base", "gallop", "lora"]


def test_a_configuration_stopped_after_a_lucky_seed_does_not_win():
    first = show(configurations_table(RESULTS))
    assert cells(first, "gallop-lucky")[4] == "99.0"
    assert cells(show(final_table(RESULTS)), "gallop")[4] == "62.0"


def test_of_hundreds_of_configurations_the_best_are_shown():
    lines = show(configurations_table([result(f"gallop-{n:03}", 0, n / 200) for n in range(150)]))
    keys = [line.split()[0] for line in lines if line.startswith("gallop-")]
    assert (len(keys), keys[0], keys[-1]) == (100, "gallop-149", "gallop-050")
    assert "50 more are in the report" in lines[-1]
    assert "In percent" in " ".join(lines)


def test_an_objective_to_be_made_small_turns_the_order_round():
    lines = show(final_table(RESULTS[:6], objective=ObjectiveSpec(metric="val_forget_ratio")))
    assert cells(lines, "gallop")[4] == "38.0"
    assert lines[0].strip() == "Best configuration of each method by val_forget_ratio"
    order = [line.split()[0] for line in show(configurations_table(RESULTS[:6])) if line.startswith("gallop-")]
    assert order == ["gallop-a", "gallop-b"]


def test_a_hundred_columns_hold_the_widest_numbers_in_one_line_each():
    wide = [
        result("gallop-0123abcd", seed, value, value, ood_accuracy=value, forget_ratio=value, collapse_rate=value)
        for seed, value in enumerate((0.0, 1.0))
    ]
    failed = result("gallop-0123abcd", 2, None, status="failed")
    for table in (final_table(wide, BASE), configurations_table([*wide, failed])):
        lines = show(table)
        assert all(len(line) <= 100 for line in lines)
        row = [line for line in lines if line.startswith("gallop")]
        assert len(row) == 1
        assert row[0].count("50.0±70.7") == 4
        assert "…" not in "".join(lines)


def test_the_caption_says_of_how_many_sets_the_collapse_rate_is_a_share():
    tasks = {name: {"test": {"likelihood": 0.5}} for name in ("arc", "boolq", "piqa")}
    assert "share of the 2 OOD test sets below 1 %" in " ".join(show(final_table([result("a-1", 0, 0.5, tasks=tasks)])))


def test_the_caption_says_where_a_task_without_options_counts_by_generation():
    tasks = {"arc": {"test": {"likelihood": 0.5, "generated": 0.1}}, "sums": {"test": {"generated": 0.5}}}
    said = "on test sets by likelihood (without options by generation)"
    assert said in " ".join(show(final_table([result("a-1", 0, 0.5, tasks=tasks)])))
    del tasks["sums"]
    assert said not in " ".join(show(final_table([result("a-1", 0, 0.5, tasks=tasks)])))


def test_markdown_has_the_same_rows():
    lines = markdown_table(RESULTS, BASE).splitlines()
    assert lines[0].startswith("| Method | Seeds | Density | LR |")
    assert lines[2] == "| base model |  |  |  |  | 30.0 | 25.0 | 40.0 | 0.0 | 0.0 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| base model", "| gallop", "| full", "| lora"]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("base", [None, BASE])
def test_without_results_the_tables_are_empty_and_not_an_error(base):
    assert len(final_table([], base).rows) == (base is not None)
    assert configurations_table([]).rows == []


FRONT = [
    *[result("gallop-good", s, v, val_id_accuracy=v, val_forget_ratio=0.20) for s, v in enumerate((0.60, 0.70))],
    *[result("gallop-mild", s, v, val_id_accuracy=v, val_forget_ratio=0.05) for s, v in enumerate((0.50, 0.50))],
    *[result("lora-worse", s, v, val_id_accuracy=v, val_forget_ratio=0.20) for s, v in enumerate((0.60, 0.69))],
    *[result("lora-equal", s, v, val_id_accuracy=v, val_forget_ratio=0.05) for s, v in enumerate((0.49, 0.51))],
    result("lora-lucky", 0, 0.9, val_id_accuracy=0.9, val_forget_ratio=0.0),
    result("full-none", 0, None, status="failed"),
]
TWO = ObjectiveSpec(metrics=("val_id_accuracy", "val_forget_ratio"))


def test_the_front_of_two_metrics_is_marked_and_comes_first():
    lines = show(configurations_table(FRONT, TWO), 120)
    rows = [line.split()[0] for line in lines if line.startswith(("gallop-", "lora-", "full-"))]
    assert rows == ["gallop-good*", "gallop-mild*", "lora-equal*", "lora-lucky", "lora-worse", "full-none"]
    assert cells(lines, "gallop-good*")[4:6] == ["65.0", "20.0"]
    assert "*: on the Pareto front." in " ".join(lines)
    front = show(final_table(FRONT, BASE, TWO), 120)
    assert front[0].strip() == "Pareto front by val_id_accuracy and val_forget_ratio"
    assert [line.split()[0] for line in front if line.startswith(("gallop-", "lora-", "full-"))] == [
        "gallop-good", "gallop-mild", "lora-equal",
    ]  # fmt: skip
    assert markdown_table(FRONT, BASE, TWO).startswith(
        "| Configuration | Seeds | Density | LR | Params | Val ID | Val f"
    )


def test_standard_errors_count_against_what_varies():
    runs = [
        *[result("gallop-steady", seed, value) for seed, value in enumerate((0.60, 0.60, 0.60))],
        *[result("gallop-varies", seed, value) for seed, value in enumerate((0.50, 0.62, 0.74))],
    ]
    order = [line.split()[0] for line in show(configurations_table(runs)) if line.startswith("gallop-")]
    assert order == ["gallop-varies", "gallop-steady"]
    lines = show(configurations_table(runs, ObjectiveSpec(standard_errors=1)))
    # The mean is 0.62, the standard deviation 0.12, the standard error 0.12 / sqrt(3) = 0.069.
    assert cells(lines, "gallop-varies")[4] == "55.1"
    assert [line.split()[0] for line in lines if line.startswith("gallop-")] == ["gallop-steady", "gallop-varies"]


def test_standard_errors_make_a_metric_to_be_made_small_larger():
    runs = [result("gallop-a", seed, None, val_forget_ratio=value) for seed, value in enumerate((0.1, 0.3))]
    lines = show(configurations_table(runs, ObjectiveSpec(metric="val_forget_ratio", standard_errors=0.5)))
    assert cells(lines, "gallop-a")[4] == "25.0"


def test_losses_are_in_nats_and_the_smallest_is_best():
    """A task that counts by its loss has no accuracy: no column of those is there, and no value is in percent."""
    measured = {"forget_ratio": None, "ood_accuracy": None, "ood_loss": 2.0, "ood_loss_increase": 0.25}
    tasks = {"mine": {"test": {"loss": 1.5}}, "other": {"test": {"loss": 2.0}}}
    runs = [
        result(f"gallop-{name}", seed, None, None, val_id_loss=loss, id_loss=loss + 0.1, tasks=tasks, **measured)
        for name, of_seeds in (("a", (1.5, 1.7)), ("b", (1.9, 1.9)))
        for seed, loss in enumerate(of_seeds)
    ]
    lines = show(final_table(runs, None, ObjectiveSpec(metric="val_id_loss")), width=120)
    (heading,) = [line for line in lines if line.startswith("Method")]
    assert heading.split()[-6:] == ["Val", "ID", "loss", "OOD", "loss", "Increase"]
    found = cells(lines, "gallop")
    assert found[-4:] == ["1.600", "1.700±0.141", "2.000±0.000", "0.250±0.000"]
    assert any("losses in nats" in line for line in lines)
    assert any("test sets by what each task counts by (loss)" in line for line in lines)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_that_is_wider_than_the_log_or_the_terminal_is_printed_whole(terminal):
    losses = {"id_loss": 2.624, "ood_loss": 3.202, "ood_loss_increase": -2.511}
    wide = [result("gallop-a", seed, 0.6, **losses, status="finished") for seed in (0, 1)]
    output = StringIO()
    print_whole(Console(file=output, width=80, force_terminal=terminal, no_color=True), final_table(wide, BASE))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) > 80
    assert "…" not in output.getvalue()
    assert cells(lines, "gallop")[-3:] == ["2.624±0.000", "3.202±0.000", "-2.511±0.000"]
