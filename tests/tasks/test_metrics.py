import pytest

from gallop_ray.spec.metrics import Scores, collapse_rate, forget_ratio
from gallop_ray.tasks.metrics import forgetting, is_vacuous, summarize, vacuous


def measured(validation, test, generated):
    return {"validation": {"likelihood": validation}, "test": {"likelihood": test, "generated": generated}}


def test_forget_ratio_is_the_relative_loss_of_ood_accuracy():
    assert forget_ratio(0.8, 0.6) == pytest.approx(0.25)
    assert forget_ratio(0.8, 0.9) == 0
    assert forget_ratio(0.0, 0.0) is None


def test_collapse_counts_accuracies_strictly_below_one_percent():
    assert collapse_rate(Scores(None, dict(zip("abcd", [0.0, 0.0099, 0.01, 0.5], strict=True)))) == 0.5
    assert collapse_rate(Scores(None)) is None


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


def test_a_task_without_options_counts_by_generation_everywhere():
    def both(value):
        return {"validation": {"generated": value}, "test": {"generated": value}}

    result = summarize({"a": both(0.9), "b": both(0.2)}, {"a": both(0.1), "b": both(0.4)}, "a", ["b"])
    for name in ("id_accuracy", "id_accuracy_generated", "val_id_accuracy"):
        assert result[name] == 0.9
    for name in ("forget_ratio", "forget_ratio_generated", "val_forget_ratio"):
        assert result[name] == 0.5


def test_forgetting_of_each_ood_task_by_each_way():
    base = {"a": measured(0, 0.9, 0.9), "b": measured(0, 0.8, 0.0), "c": measured(0, 0.4, 0.4)}
    tuned = {"a": measured(0, 0.1, 0.1), "b": measured(0, 0.6, 0.0), "c": measured(0, 0.5, 0.1)}
    assert forgetting(tuned, base, ["b", "c"]) == {
        "b": {"likelihood": pytest.approx(0.25), "generated": None},
        "c": {"likelihood": 0.0, "generated": pytest.approx(0.75)},
    }
    # What c gained makes up for what b lost in the ratio of the means alone.
    assert summarize(tuned, base, "a", ["b", "c"])["forget_ratio"] == pytest.approx((0.6 - 0.55) / 0.6)


def test_a_base_model_below_five_percent_makes_forgetting_vacuous():
    assert [vacuous(each) for each in (0.0, 0.049, 0.05, None)] == [True, True, False, False]
    base = {"b": measured(0.9, 0.9, 0.0), "c": measured(0.9, 0.9, 0.08)}
    assert is_vacuous(base, ["b", "c"]) is True
    assert is_vacuous(base, ["c"]) is False
    assert is_vacuous(base, []) is None


def test_losses_have_metrics_of_their_own_and_are_lost_by_difference():
    def scored(loss, accuracy, both):
        return {
            "a": {split: {"loss": loss} for split in ("validation", "test")},
            "b": {split: {"likelihood": accuracy} for split in ("validation", "test")},
            "c": {split: {"f1": both, "loss": 2 * loss} for split in ("validation", "test")},
        }

    tuned, base = scored(1.0, 0.4, 0.6), scored(1.5, 0.8, 0.8)
    found = summarize(tuned, base, "a", ["b", "c"])
    assert found["id_loss"] == found["val_id_loss"] == 1.0
    assert found["id_accuracy"] is None
    assert found["val_mean_accuracy"] is None
    assert (found["ood_accuracy"], found["ood_loss"]) == (0.5, 2.0)
    assert found["forget_ratio"] == pytest.approx(0.375)
    assert found["ood_loss_increase"] == found["val_ood_loss_increase"] == -1.0
    assert forgetting(tuned, base, ["b", "c"]) == {
        "b": {"likelihood": 0.5},
        "c": {"f1": pytest.approx(0.25), "loss": -1.0},
    }


def test_the_loss_and_the_margin_of_answers_are_means_of_both_or_of_the_task_alone():
    def scored(loss, margin):
        return {"validation": {"likelihood": 0.5, "loss": loss, "margin": margin}, "test": {"likelihood": 0.5}}

    tuned = {"a": scored(1.0, -0.5), "b": scored(2.0, 0.25), "c": scored(4.0, 0.25)}
    base = {name: scored(1.5, 0.0) for name in "abc"}
    found = summarize(tuned, base, "a", ["b", "c"])
    assert (found["val_answer_loss"], found["val_margin"]) == (2.0, -0.125)
    assert not {"id_loss", "answer_loss", "margin", "val_text_loss"} & found.keys(), "nothing of test sets"
    alone = summarize(tuned, base, "a", [])
    assert (alone["val_answer_loss"], alone["val_margin"]) == (1.0, -0.5)


def test_without_losses_there_are_none():
    one = {"a": measured(0.9, 0.8, 0.7)}
    assert not [name for name in summarize(one, one, "a", []) if "loss" in name]
