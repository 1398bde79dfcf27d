"""What is left, by what runs have taken."""

from gallop_ray.analysis.timing import RunSeconds, slot_seconds_left

SECONDS = RunSeconds([("slow", 100), ("slow", 200), ("fast", 10)])


def test_each_method_by_its_own_runs_and_a_new_one_by_all():
    assert SECONDS.of("slow") == 150
    assert SECONDS.of("fast") == 10
    assert SECONDS.of("new") == 310 / 3
    assert RunSeconds([]).of("slow") is None


def test_runs_that_go_on_count_by_what_they_still_need():
    left = {"slow": 2, "fast": 3}
    assert slot_seconds_left(SECONDS, left, []) == 330
    assert slot_seconds_left(SECONDS, left, [("slow", 50), ("fast", 1)]) == 279
    assert slot_seconds_left(SECONDS, left, [("slow", 1000)]) == 180, "a run that takes longer is about to end"


def test_nothing_is_said_before_anything_is_known_and_zero_when_nothing_is_left():
    assert slot_seconds_left(RunSeconds([]), {"slow": 1}, []) is None
    assert slot_seconds_left(RunSeconds([]), {"slow": 0}, []) == 0
