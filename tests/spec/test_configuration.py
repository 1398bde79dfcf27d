"""From a search space to configurations, keys, plans and text."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from gallop_ray.spec.configuration import (
    configuration_key,
    densities,
    fixed_scores,
    method_named,
    method_space,
    resolve,
    selection_ratios,
)
from gallop_ray.spec.load import load_sweep, resolved_yaml, spec_json
from gallop_ray.spec.mask_methods import GallopSpec
from gallop_ray.spec.method import LoraRank
from gallop_ray.spec.plan import optimizer_steps, plan_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import ChoiceRange, LogRange, extremes, points
from gallop_ray.spec.training import TrainingSpec

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))

SPACE = """\
seeds: 2
search:
  space:
    gallop.density: {choice: [0.1, {lora_rank: 8}]}
    method.density: {log: [0.01, 0.1]}
    training.learning_rate: {log: [1e-5, 1e-3]}
    lora.training.learning_rate: {choice: [1e-4, 2e-4]}
    lora.rank: {integer: [1, 2]}
"""


def test_a_method_searches_its_own_paths_before_the_general_ones(load):
    sweep = load(SPACE)
    gallop, lora = method_space(sweep, "gallop"), method_space(sweep, "lora")
    assert gallop == {
        "method.density": ChoiceRange(choice=(0.1, {"lora_rank": 8})),
        "training.learning_rate": LogRange(log=(1e-5, 1e-3)),
    }
    assert set(lora) == {"training.learning_rate", "method.rank"}
    assert lora["training.learning_rate"] == ChoiceRange(choice=(1e-4, 2e-4))


def test_resolve_fills_in_what_is_not_searched(load):
    sweep = load(SPACE)
    values = {"method.density": {"lora_rank": 8}, "training.learning_rate": 3e-4}
    configuration = resolve(sweep, "gallop", values)
    assert configuration.method == GallopSpec(density=LoraRank(lora_rank=8))
    assert configuration.training == TrainingSpec(learning_rate=3e-4)
    assert resolve(sweep, "gallop", {}).method == sweep.methods[0]


RATIOS = """\
search:
  space:
    method.density: {choice: [0.1, {lora_rank: 8}]}
    gallop.selection_ratio: {choice: [0.5, 1]}
    saft.selection_ratio: {log: [0.1, 1.0]}
    snip.density: {log: [0.01, 0.2]}
    sift.scope: {choice: [per_matrix]}
"""


def test_what_is_known_beforehand_of_a_methods_scores(load):
    sweep = load(RATIOS, "methods=[{type: gallop}, {type: saft}, {type: snip}, {type: sift}]")
    gallop, saft, snip, sift = sweep.methods
    assert densities(sweep, gallop) == [0.1, LoraRank(lora_rank=8)]
    assert densities(sweep, snip) == [0.01, 0.2]
    assert [selection_ratios(sweep, each) for each in sweep.methods] == [[0.5, 1.0], [], [0.1], [None]]
    assert [fixed_scores(sweep, each) for each in (gallop, saft, snip, sift)] == [True, True, True, False]


@pytest.mark.parametrize("values", [{"data.train": "x"}, {"method.rank": 3}, {"training.learning_rate": -1}])
def test_resolve_refuses_what_does_not_fit(load, values):
    with pytest.raises(ValueError, match=r"data.train|rank|learning_rate"):
        resolve(load(), "gallop", values)


def test_an_unknown_method_is_named(load):
    with pytest.raises(ValueError, match="the methods are gallop, lora"):
        method_named(load(), "galop")


def test_keys_are_readable_and_tell_configurations_apart(load):
    sweep = load(SPACE)
    keys = [
        configuration_key(resolve(sweep, "gallop", {"method.density": 0.1})),
        configuration_key(resolve(sweep, "gallop", {"method.density": 0.2})),
        configuration_key(resolve(sweep, "lora", {})),
        configuration_key(resolve(sweep, "gallop", {"training.learning_rate": 0.1})),
    ]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"(gallop|lora)-[0-9a-f]{8}", key) for key in keys)
    assert keys[0] == configuration_key(resolve(sweep, "gallop", {"method.density": 1e-1}))


def test_a_key_is_the_hash_of_the_canonical_json(load):
    configuration = resolve(load(), "lora", {"method.rank": 4})
    canonical = json.dumps(json.loads(configuration.model_dump_json()), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    assert configuration_key(configuration) == f"lora-{digest[:8]}"


def test_witnesses_and_points():
    assert extremes(LogRange(log=(0.1, 1))) == (0.1, 1)
    assert points(LogRange(log=(0.1, 1))) is None
    assert points(ChoiceRange(choice=(3, "a"))) == (3, "a")


def test_plan_counts_configurations_runs_and_steps(load):
    plan = plan_sweep(load(SPACE, "budget.configurations=6", "training.epochs=3"), 100)
    gallop, lora = plan.methods
    assert (gallop.configurations, gallop.runs) == (6, 12)
    assert (lora.configurations, lora.runs) == (4, 8)  # two learning rates x two ranks
    assert gallop.steps_per_run == 9  # floor(3 x 100 / 32)
    assert (plan.configurations, plan.runs, plan.seeds, plan.steps) == (10, 20, 2, 180)


def test_a_run_has_the_steps_of_all_its_rounds(load):
    sweep = load("training: {epochs: 2, batch_size: 8}\n", "data.train=[sum, first]")
    assert {plan.steps_per_run for plan in plan_sweep(sweep, [80, 41]).methods} == {20 + 10}
    assert {plan.steps_per_run for plan in plan_sweep(sweep, None).methods} == {None}


def test_a_method_with_nothing_to_search_runs_once(load):
    plan = plan_sweep(load(), None)
    assert plan.configurations == 2
    assert plan.steps is None


def test_plan_takes_the_longest_run_of_a_searched_batch(load):
    space = "search: {space: {training.batch_size: {choice: [8, 64]}, lora.training.steps: {integer: [5, 9]}}}\n"
    gallop, lora = plan_sweep(load(space), 640).methods
    assert gallop.steps_per_run == 80
    assert lora.steps_per_run == 9


def test_optimizer_steps():
    assert optimizer_steps(TrainingSpec(epochs=0.5, batch_size=8), 100) == 6
    assert optimizer_steps(TrainingSpec(epochs=1, batch_size=64), 10) == 1
    assert optimizer_steps(TrainingSpec(steps=7), 10) == 7
    for epochs in (0.29, 0.57):  # whose float products with 100 are below 29 and 57
        training = TrainingSpec(epochs=epochs, batch_size=1, micro_batch_size=1)
        assert optimizer_steps(training, 100) == round(100 * epochs)


def round_trip(sweep: Sweep, folder: Path) -> Sweep:
    path = folder / "resolved.yaml"
    path.write_text(resolved_yaml(sweep), encoding="utf-8")
    return load_sweep(path)


def test_resolved_yaml_loads_to_an_equal_sweep(load, tmp_path):
    sweep = load(
        SPACE
        + "  first: [{gallop.density: {lora_rank: 8}}, {training.learning_rate: 1e-4}]\n"
        + "objective: {metrics: [val_ood_accuracy, val_id_accuracy], standard_errors: 1}\n"
        + "tracking: {experiment: '1e-4', uri: 'no'}\n",
        "data.prompt='{instruction}\n: é\n'",
    )
    assert round_trip(sweep, tmp_path) == sweep
    assert "validation_share: 0.1" in resolved_yaml(sweep)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_project_loads_plans_and_round_trips(path, tmp_path):
    sweep = load_sweep(path)
    assert sweep.name == path.stem
    assert plan_sweep(sweep, 1000).runs >= len(sweep.methods) * len(sweep.seeds)
    assert round_trip(sweep, tmp_path) == sweep


def test_spec_json_holds_the_whole_sweep(load):
    sweep = load(SPACE)
    assert Sweep.model_validate(json.loads(spec_json(sweep))) == sweep


def test_there_are_sweeps_to_learn_from():
    assert {path.stem for path in SWEEPS} >= {"quickstart", "smollm2_arc_easy", "llama3_8b_commonsense"}
