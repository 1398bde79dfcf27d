"""Reading a sweep file: values, lines, overrides, and how mistakes are told."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.mask_methods import GallopSpec
from gallop_ray.spec.method import LoraRank
from gallop_ray.spec.problems import Problem, SweepFileError
from gallop_ray.spec.registry import method_types


def test_smallest_sweep_has_defaults(load):
    sweep = load()
    assert [method.name for method in sweep.methods] == ["gallop", "lora"]
    assert sweep.seeds == (0,)
    assert sweep.training.batch_size == 32


def test_numbers_with_an_exponent_need_no_dot(load):
    sweep = load("training: {learning_rate: 1e-4}\nsearch: {space: {training.weight_decay: {linear: [1E-3, 2e-1]}}}\n")
    assert sweep.training.learning_rate == 1e-4
    assert sweep.search.space["training.weight_decay"].linear == (1e-3, 0.2)


def test_a_count_of_seeds_and_a_list_of_seeds(load):
    assert load("seeds: 3\n").seeds == (0, 1, 2)
    assert load("seeds: [7, 5]\n").seeds == (7, 5)


def test_anchors_are_followed(load):
    text = """\
name: small
model: {name: pocket}
data: {root: generated, train: sum, ood: [max]}
methods:
  - {type: gallop, density: {lora_rank: 4}, target_modules: &m [q_proj]}
  - {type: lora, target_modules: *m}
"""
    sweep = load(text=text)
    assert sweep.methods[0].density == LoraRank(lora_rank=4)
    assert sweep.methods[1].target_modules == ("q_proj",)


SIX_MISTAKES = """\
name: six
model:
  name: pocket
  dtype: bfloat61
data:
  root: generated
  train: sum
  ood: [max, sum]
methods:
  - type: galop
  - type: lora
    rnak: 4
training:
  learning_rate: -1
  batch_size: 30
search:
  space:
    training.epochs: 3
"""


def test_six_mistakes_are_told_at_once_each_on_its_line(problems):
    assert problems(text=SIX_MISTAKES) == [
        "sweep.yaml:4: model.dtype: \"bfloat61\" is not allowed; must be 'float32' or 'bfloat16'; "
        "did you mean `bfloat16`?",
        'sweep.yaml:8: data.ood.1: "sum" is not allowed; it is the task trained on, and must not be among the others',
        'sweep.yaml:10: methods.0.type: "galop" is not allowed; must be one of '
        f"{', '.join(map(repr, method_types()))}, or module:Class; did you mean `gallop`?",
        "sweep.yaml:12: methods.1.rnak: unknown key; did you mean `rank`?",
        "sweep.yaml:14: training.learning_rate: -1 is not allowed; must be greater than 0",
        "sweep.yaml:18: search.space.training.epochs: 3 is not allowed; must be one of {log: [low, high]}, "
        "{linear: [low, high]}, {integer: [low, high]} or {choice: [a, b, ...]}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "sweep.yaml:1: the file is empty"),
        ("# only a comment\n", "sweep.yaml:1: the file is empty"),
        ("\n- a\n- b\n", "sweep.yaml:2: must be `key: value` lines"),
        ("name: a\nmodel: {name: b\ndata: 3\n", "sweep.yaml:3: is not valid YAML:"),
        ("name: a\n---\nname: b\n", "sweep.yaml:2: is not valid YAML:"),
        ("name: \x07\n", "sweep.yaml:1: is not valid YAML: the character #x0007"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_problem(problems, text, expected):
    lines = problems(text=text)
    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_missing_file_and_folder_and_binary(tmp_path: Path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    reasons = (("nope.yaml", ": no such file"), ("", ": cannot be read"), ("binary.yaml", ":1: is not text in UTF-8"))
    for name, reason in reasons:
        with pytest.raises(SweepFileError) as caught:
            load_sweep(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}{reason}")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("seeds: 1\nseeds: 2\n", "6: seeds: is given twice, first on line 5; keep one of them"),
        ("training:\n  epochs: 1\n  epochs: 2\n", "7: training.epochs: is given twice, first on line 6; keep one"),
        ("seeds: !env SEEDS\n", "5: seeds: the tag !env is not understood; write a plain value"),
        ("deepspeed: {extra: &a {b: *a}}\n", "5: deepspeed.extra.b: this alias stands inside the anchor"),
        ("budget:\n  hours:\n    -1\n", "7: budget.hours: -1 is not allowed; must be greater than 0"),
        ("bugdet:\n  3\n", "5: bugdet: unknown key; did you mean `budget`?"),
        (
            "pruning: {zzz: 1}\n",
            "5: pruning.zzz: unknown key; allowed are after_configurations, after_seeds, reduction,",
        ),
        ("training: {batch_size: 1.5}\n", "5: training.batch_size: 1.5 is not allowed; must be a whole number"),
        ("training: {clip_norm: true}\n", "5: training.clip_norm: true is not allowed; must be a number"),
        ("training: {epochs: .nan}\n", "5: training.epochs: NaN is not allowed; must be a finite number"),
        ("training: 3\n", "5: training: 3 is not allowed; must be a section of `key: value` lines"),
        ("evaluation: {generate: maybe}\n", '5: evaluation.generate: "maybe" is not allowed; must be true or false'),
        ("resources: {slots: 0}\n", "5: resources.slots: 0 is not allowed; must be at least 1 or 'auto'"),
        ("seeds: 0\n", "5: seeds: 0 is not allowed; must be a list of seeds, or how many to take (at least 1)"),
        ("seeds: [true]\n", "5: seeds.0: true is not allowed; must be a whole number"),
        ("output: ''\n", '5: output: "" is not allowed; must not be empty'),
        ("tracking: {uri: 3}\n", "5: tracking.uri: 3 is not allowed; must be text; put it in quotes"),
    ],
)
def test_one_mistake_is_one_plain_line(problems, more, expected):
    lines = problems(more)
    assert len(lines) == 1
    assert lines[0].startswith(f"sweep.yaml:{expected}")


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("[{rank: 3}]", "methods.0.type: is missing; every method needs a type, such as `- type: gallop`"),
        ("[lora]", 'methods.0: "lora" is not allowed; every method needs a type, such as `- type: gallop`'),
        ("[]", "methods: [] is not allowed; must not be empty"),
        (
            "[{type: random, target_modules: (}]",
            'methods.0.target_modules: "(" is not allowed; must be a list, all-linear or a regular expression, which '
            "this is not: missing )",
        ),
        (
            "[{type: lora, target_modules: [all-linear]}]",
            'methods.0.target_modules: ["all-linear"] is not allowed; must be all-linear alone, without a list',
        ),
        ("[{type: gallop, target_modules: 3}]", "methods.0.target_modules: 3 is not allowed; must be a list, such as"),
        ("[{type: gallop, density: 2}]", "methods.0.density: 2 is not allowed; must be at most 1"),
        ("[{type: gallop, density: {lora_rank: 0}}]", "methods.0.density.lora_rank: 0 is not allowed; must be at"),
        ("[{type: gallop, density: {rank: 8}}]", "methods.0.density.rank: unknown key; did you mean `lora_rank`?"),
        ("[{type: full, name: A b}]", 'methods.0.name: "A b" is not allowed; must be of lower-case letters'),
    ],
)
def test_mistakes_in_methods(problems, methods, expected):
    text = f"name: a\nmodel: {{name: pocket}}\ndata: {{root: generated, train: sum, ood: [max]}}\nmethods: {methods}\n"
    assert any(line.startswith(f"sweep.yaml:4: {expected}") for line in problems(text=text))


def test_missing_sections_are_named(problems):
    missing = "is missing; it has no default, so give it a value"
    text = "name: a\ndata: {root: generated, ood: [max]}\n"
    assert problems(text=text) == [
        f"sweep.yaml:1: model: {missing}",
        f"sweep.yaml:1: methods: {missing}",
        f"sweep.yaml:2: data.train: {missing}",
    ]


def test_overrides_reach_fields_methods_lists_and_the_search_space(load):
    sweep = load(
        "",
        "training.learning_rate=1e-3",
        "budget.hours=2",
        "methods.0.density=0.2",
        "lora.rank=4",
        "data.ood.1=first",
        "seeds=2",
        "search.space.training.epochs={choice: [1, 2]}",
        "deepspeed.extra.comms_logger.enabled=true",
        "tracking.uri=",
    )
    assert sweep.training.learning_rate == 1e-3
    assert sweep.budget.hours == 2
    assert isinstance(sweep.methods[0], GallopSpec)
    assert sweep.methods[0].density == 0.2
    assert sweep.methods[1].rank == 4
    assert sweep.data.ood == ("max", "first")
    assert sweep.seeds == (0, 1)
    assert sweep.search.space["training.epochs"].choice == (1, 2)
    assert sweep.deepspeed.extra == {"comms_logger": {"enabled": True}}
    assert sweep.tracking.uri is None


def test_epochs_on_the_command_line_count_whatever_the_file_says_of_steps(load):
    training = load("training: {steps: 5}\n", "training.epochs=3").training
    assert (training.epochs, training.steps) == (3, None)
    both = load("training: {steps: 5}\n", "training.steps=7", "training.epochs=3").training
    assert (both.epochs, both.steps) == (3, 7)


def test_a_wrong_override_is_told_by_its_own_text_after_the_lines_of_the_file(problems):
    assert problems("seeds: -1\n", "training.epochs=0", "model.nam=x") == [
        "sweep.yaml:5: seeds: -1 is not allowed; must be a list of seeds, or how many to take (at least 1)",
        "--set training.epochs=0: training.epochs: 0 is not allowed; must be greater than 0",
        "--set model.nam=x: model.nam: unknown key; did you mean `name`?",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seeds", ": must read path=value"),
        (".a=1", ": must read path=value"),
        ("galop.rank=1", ": galop: is neither a section of a sweep nor a method's name; did you mean `gallop`?"),
        ("methods.2.rank=1", ": methods.2: there is no entry `2`; the entries are 0 to 1"),
        ("methods.x.rank=1", ": methods.x: there is no entry `x`"),
        ("data.root.a=1", ": data.root.a: data.root is a single value and has no fields"),
        ("data.root.a.b=1", ": data.root.a: data.root is a single value and has no fields"),
        ("seeds=[1", ": is not valid YAML"),
        ("seeds=!x 1", ": the tag !x is not understood"),
    ],
)
def test_an_override_that_cannot_be_placed(problems, override, expected):
    lines = problems("", override)
    assert len(lines) == 1
    assert lines[0].startswith(f"--set {override}{expected}")


def test_the_error_is_a_value_error_with_problems_that_survives_pickling():
    error = SweepFileError([Problem("a.yaml", 3, "seeds", "is wrong")])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ValueError)
    assert again.problems == error.problems
    assert str(again) == "a.yaml:3: seeds: is wrong"


def test_loading_imports_nothing_heavy():
    script = (
        "import sys; import gallop_ray.spec.load, gallop_ray.spec.plan, gallop_ray.spec.load;"
        "gallop_ray.spec.load.load_sweep('sweeps/quickstart.yaml');"
        "heavy = {'torch', 'ray', 'optuna', 'transformers', 'mlflow', 'deepspeed', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)
