"""Settings that would have no effect, or whose values cannot be what they are asked to be."""

from pathlib import Path

import pytest

from gallop_ray.analysis.advice import advice
from gallop_ray.spec.checks import verify
from gallop_ray.spec.configuration import method_space, resolve, trainings
from gallop_ray.spec.load import load_sweep, spec_json
from gallop_ray.spec.references import references
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.space import grid_point, grid_size
from tests.spec.conftest import SMALLEST, Load, Problems

SPACE = "search:\n  space:\n    "


@pytest.mark.parametrize(
    ("more", "entry", "expected"),
    [
        (
            "",
            "training.max_length: {choice: [16, 24]}",
            ": cannot be searched: max_length is fixed for a sweep, because",
        ),
        ("", "lora.training.too_long: {choice: [cut, drop]}", ": cannot be searched: too_long is fixed for a sweep"),
        (
            "",
            "training.checkpoint_steps: {choice: [5, null]}",
            ": cannot be searched: checkpoint_steps changes no result",
        ),
        (
            "training: {steps: 5}\n",
            "training.epochs: {choice: [1, 2]}",
            ": has no effect for gallop, because training.steps overrides the epochs; leave out one of the two",
        ),
        (
            "",
            "training.optimizer_options: {choice: [{weight_decay: 0.5}, {betas: [0.9, 0.95]}]}",
            ".choice.0.weight_decay: is not allowed here; set training.weight_decay instead",
        ),
        (
            "",
            "training.batch_size: {choice: [8, 18.0, 16]}",
            ": batch_size 18 is not allowed; must be a multiple of micro_batch_size x workers_per_slot = 8 x 1 = 8",
        ),
        ("", 'training.packing: {choice: ["yes", true]}', ".choice: the values must differ, but true is there twice"),
    ],
)
def test_a_search_that_would_change_nothing_is_refused(
    problems: Problems, more: str, entry: str, expected: str
) -> None:
    lines = problems(f"{more}{SPACE}{entry}\n")
    assert lines[0].startswith(f"sweep.yaml:{7 + more.count(chr(10))}: search.space.{entry.split(':')[0]}{expected}")


def test_searched_epochs_count_where_steps_may_be_left_out(load: Load) -> None:
    load(f"{SPACE}training.epochs: {{choice: [1, 2]}}\n    training.steps: {{choice: [null, 5]}}\n")


def test_values_of_a_method_are_judged_beside_its_own_and_beside_each_other(load: Load, problems: Problems) -> None:
    def spiel(options: str, space: str) -> tuple[str, str]:
        return f"{SPACE}{space}\n", f"methods=[{{type: spiel{options}}}]"

    load(*spiel(", refresh_every: 100", "spiel.accumulate: {integer: [5, 50]}"))
    load(*spiel("", "spiel.accumulate: {choice: [40, 50]}\n    spiel.refresh_every: {choice: [60, 100]}"))
    (line,) = problems(*spiel(", accumulate: 10", "spiel.refresh_every: {choice: [8, 20]}"))
    assert line == (
        "sweep.yaml:7: search.space.spiel.refresh_every: refresh_every 8 is not allowed for spiel; accumulate must not "
        "exceed refresh_every, which is 8"
    )
    (line,) = problems(*spiel("", "spiel.accumulate: {choice: [5, 8]}\n    spiel.refresh_every: {choice: [6, 20]}"))
    assert "search.space.spiel.refresh_every: accumulate 8, refresh_every 6 is not allowed for spiel" in line


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_samplers_whose_arguments_are_set_take_none(load: Load, problems: Problems, sampler: str) -> None:
    more = "search: {{sampler: {}, sampler_options: {{n_startup_trials: 3}}}}\n"
    (line,) = problems(more.format(sampler))
    assert line.startswith(f"sweep.yaml:5: search.sampler_options: is not allowed with {sampler}, whose arguments")
    assert load(more.format("TPESampler")).search.sampler_options == {"n_startup_trials": 3}


def test_every_training_that_an_optimizer_is_made_of_is_known_beforehand(load: Load) -> None:
    space = "training.optimizer: {choice: [adamw, sgd]}\n    gallop.training.schedule: {choice: [linear, cosine]}\n"
    sweep = load(SPACE + space)
    gallop, lora = ([(each.optimizer, each.schedule) for each in trainings(sweep, method)] for method in sweep.methods)
    assert gallop == [("adamw", "linear"), ("adamw", "cosine"), ("sgd", "linear"), ("sgd", "cosine")]
    assert lora == [("adamw", "linear"), ("sgd", "linear")]


def test_a_sweep_that_an_earlier_version_began_is_resumed_with_what_is_refused_now(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"{SMALLEST}output: {tmp_path}\n{SPACE}training.max_length: {{choice: [16, 24]}}\n")
    with pytest.raises(ValueError, match="max_length is fixed for a sweep"):
        load_sweep(file)
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "spec.json").write_text("{}")
    sweep = load_sweep(file)
    assert verify(sweep) == sweep
    assert Sweep.model_validate_json(spec_json(sweep)) == sweep
    assert resolve(sweep, "lora", {"training.max_length": 24}).training.max_length == 24


SEARCHED = f"{SPACE}training.learning_rate: {{log: [1e-5, 1e-3]}}\n    gallop.density: {{choice: [0.1, 0.2]}}\n"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "training.learning_rate=1e-2",
            "training.learning_rate: learning_rate is searched (search.space.training.learning_rate), so that its "
            "value is never used; set search.space.training.learning_rate={choice: [VALUE]}",
        ),
        ("training={learning_rate: 1e-2}", "training: learning_rate is searched (search.space.training.learning_rate)"),
        ("gallop.density=0.2", "methods.0.density: density is searched (search.space.gallop.density), so that"),
        (
            "lora.training.learning_rate=1e-2",
            "lora.training.learning_rate: is no option of the method; for one method alone set search.space.lora."
            "training.learning_rate={choice: [VALUE]}, and training.FIELD for all",
        ),
        ("data.ood.01=first", "data.ood.01: there is no entry `01`; the entries are 0 to 1"),
    ],
)
def test_an_override_that_nothing_would_use_is_refused(problems: Problems, override: str, expected: str) -> None:
    (line,) = problems(SEARCHED, override)
    assert line.startswith(f"--set {override}: {expected}")


def test_an_override_that_one_method_uses_is_taken(load: Load) -> None:
    space = f"{SPACE}gallop.training.learning_rate: {{log: [1e-5, 1e-3]}}\n"
    assert load(space, "training.learning_rate=1e-2").training.learning_rate == 1e-2
    assert load(SEARCHED, "search.space.training.learning_rate={choice: [1e-2]}").search.space


def test_code_that_is_searched_is_kept_with_the_sweep(load: Load) -> None:
    sweep = load(f"{SPACE}lora.training.schedule: {{choice: [linear, 'mine:falling']}}\n")
    assert "mine:falling" in references(sweep)


def test_a_range_of_more_numbers_than_can_be_listed_is_counted(load: Load) -> None:
    sweep = load(f"{SPACE}lora.rank: {{integer: [1, 9223372036854775807]}}\n")
    space = method_space(sweep, "lora")
    assert grid_size(space) == 2**63 - 1
    assert grid_point(space, 7) == {"method.rank": 8}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "seeds: 2\npruning: {type: median}\nbudget: {configurations: 3}\n",
            "median stops nothing: it waits for 4 other",
        ),
        (
            "training: {steps: 50}\npruning: {type: asha, rungs: [20, 60]}\n",
            "pruning.rungs: 60 is never reached, because a run has 50 steps at most",
        ),
        ("pruning: {reduction: 2}\n", "pruning.reduction has no effect with pruning.type none"),
        ("resources: {held_gb: 4}\n", "resources.held_gb has no effect: no run pauses without"),
    ],
)
def test_what_never_acts_is_said(load: Load, more: str, said: str) -> None:
    assert [text for text in advice(load(more + SEARCHED)) if text.startswith(said)]
    assert not [
        text
        for text in advice(
            load(
                more + SEARCHED,
                "budget.configurations=8",
                "pruning.reduction=3",
                "training.steps=61",
                "resources.held_gb=1",
            )
        )
        if text.startswith(said)
    ]


def test_a_task_that_is_described_for_nothing_is_said(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    text = SMALLEST.replace("data: {", f"data: {{tasks: {{minee: {tmp_path}/mine.jsonl}}, ")
    (said,) = [line for line in advice(load(text=text)) if "data.tasks" in line]
    assert said == "data.tasks: minee is neither in data.train nor in data.ood, and so is not used"
    assert not [line for line in advice(load("", "data.ood=[minee]", text=text)) if "data.tasks" in line]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "data.prompt='Q: {question} {instruction} A:'",
            'data.prompt: "Q: {question} {instruction} A:" is not allowed; there is no {question}, only {instruction} '
            "and {input}; other columns are for the task's own `prompt`, in data.tasks",
        ),
        ("model.revision=v2", 'model.revision: is not allowed with "pocket", which is no hub id and has one version'),
        ("training.decay_to=base", "training.decay_to: has no effect with training.weight_decay 0; give that, or"),
        (
            "search={first: [{gallop.density: 0.1}, {gallop.density: 0.2}], space: {gallop.density: {choice: "
            "[0.1, 0.2, 0.3]}}}",
            "gallop would try 1 of its 2 points; raise budget.configurations to 2, or leave some out",
        ),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused_unless_the_sweep_has_begun(
    problems: Problems, load: Load, tmp_path: Path, override: str, expected: str
) -> None:
    settings = (override, "budget.configurations=1", f"output={tmp_path}")
    (line,) = problems("", *settings)
    assert expected in line
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "spec.json").write_text("{}")
    load("", *settings)


def test_braces_of_a_prompt_that_are_no_field_stay(load: Load) -> None:
    prompt = '{instruction} Answer like {"a": 1} or { x }:'
    assert load("", f"data.prompt='{prompt}'").data.prompt == prompt
