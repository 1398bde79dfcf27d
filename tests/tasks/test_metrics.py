import pytest

from gallop_ray.tasks.metrics import collapse_rate, forget_ratio, summarize


def measured(validation, test, generated):
    return {"validation": {"likelihood": validation}, "test": {"likelihood": test, "generated": generated}}


def test_forget_ratio_is_the_relative_loss_of_ood_accuracy():
    assert forget_ratio(0.8, 0.6) == pytest.approx(0.25)
    assert forget_ratio(0.8, 0.9) == 0
    assert forget_ratio(0.0, 0.0) is None


def test_collapse_counts_accuracies_strictly_below_one_percent():
    assert collapse_rate([0.0, 0.0099, 0.01, 0.5]) == 0.5
    assert collapse_rate([]) is None


def test_summarize_gives_every_metric_in_three_versions():
    base = {"a": measured(0.1, 0.2, 0.3), "b": measured(0.5, 0.8, 0.4), "c": measured(0.7, 0.6, 0.0)}
    tuned = {"a": measured(0.9, 0.8, 0.7), "b": measured(0.3, 0.6, 0.0), "c": measured(0.6, 0.45, 0.1)}
    expected = {
        "id_accuracy": 0.8,
        "ood_accuracy": 0.525,
        "forget_ratio": 0.25,
        "collapse_rate": 0.0,
        "id_accuracy_generated": 0.7,
        "ood_accuracy_generated": 0.05,
        "forget_ratio_generated": 0.75,
        "collapse_rate_generated": 0.5,
        "val_id_accuracy": 0.9,
        "val_ood_accuracy": 0.45,
        "val_forget_ratio": 0.25,
        "val_collapse_rate": 0.0,
        "val_mean_accuracy": 0.675,
    }
    assert summarize(tuned, base, "a", ["b", "c"]) == pytest.approx(expected)


def test_without_ood_tasks_only_id_accuracy_is_known():
    one = {"a": measured(0.9, 0.8, 0.7)}
    known = {key: value for key, value in summarize(one, one, "a", []).items() if value is not None}
    assert known == {"id_accuracy": 0.8, "id_accuracy_generated": 0.7, "val_id_accuracy": 0.9}


def test_what_was_not_generated_has_no_generated_metrics():
    one = {name: {"validation": {"likelihood": 0.5}, "test": {"likelihood": 0.5}} for name in "ab"}
    result = summarize(one, one, "a", ["b"])
    assert [key for key, value in result.items() if value is None] == [
        key for key in result if key.endswith("_generated")
    ]
