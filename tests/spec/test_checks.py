"""What one field says about another."""

import pytest

from gallop_ray.spec.configuration import first_points


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "training: {batch_size: 30}\n",
            "training.batch_size: batch_size 30 is not allowed; "
            "must be a multiple of micro_batch_size x workers_per_slot = 8 x 1 = 8",
        ),
        (
            "resources: {workers_per_slot: 3}\n",
            "resources.workers_per_slot: batch_size 32 is not allowed; "
            "must be a multiple of micro_batch_size x workers_per_slot = 8 x 3 = 24",
        ),
        (
            "deepspeed: {offload_parameters: true}\n",
            "deepspeed.offload_parameters: true is not allowed at zero_stage 1; "
            "parameters are offloaded at stage 3 only",
        ),
        (
            "deepspeed: {zero_stage: 0, offload_optimizer: true}\n",
            "deepspeed.offload_optimizer: true is not allowed at zero_stage 0; "
            "the optimizer is offloaded at stages 1, 2 and 3",
        ),
        (
            "deepspeed: {extra: {zero_optimization: {offload_param: {device: cpu}}}}\n",
            "deepspeed.extra.zero_optimization.offload_param: is not allowed at zero_stage 1, where DeepSpeed "
            "ignores it; use zero_stage 3",
        ),
        (
            "deepspeed: {zero_stage: 0, extra: {zero_optimization: {offload_optimizer: {device: cpu}}}}\n",
            "deepspeed.extra.zero_optimization.offload_optimizer: is not allowed at zero_stage 0, where DeepSpeed "
            "ignores it; use zero_stage 1 or more",
        ),
        (
            "deepspeed: {extra: {zero_allow_untested_optimizer: false}}\n",
            "deepspeed.extra.zero_allow_untested_optimizer: is not allowed here; every run sets it, so leave it out",
        ),
        (
            "training: {optimizer_options: {lr: 1.0}}\n",
            "training.optimizer_options.lr: is not allowed here; set training.learning_rate instead",
        ),
        (
            "deepspeed: {extra: {comet: {enabled: true, api_key: abc}}}\n",
            "deepspeed.extra.comet: is not allowed here; set tracking instead",
        ),
        (
            "deepspeed: {extra: {torch_autocast: {enabled: true}}}\n",
            "deepspeed.extra.torch_autocast: is not allowed here; set model.dtype instead",
        ),
        (
            "resources: {gpus_per_worker: 1.5}\n",
            "resources.gpus_per_worker: 1.5 is not allowed; a worker has a part of one GPU, or whole ones",
        ),
        (
            "resources: {gpus_per_worker: 0.5, workers_per_slot: 2}\n",
            "resources.gpus_per_worker: 0.5 is not allowed with several workers_per_slot, which NCCL cannot join on "
            "one GPU; give 1",
        ),
        (
            "evaluation: {text: nowhere.jsonl}\n",
            'evaluation.text: "nowhere.jsonl" is not allowed; there is no such file',
        ),
        (
            "evaluation: {text: 'gs://bucket/text'}\n",
            'evaluation.text: "gs://bucket/text" is not allowed; give a path, a hub id, or an address in a '
            "bucket (s3://)",
        ),
        (
            "search: {storage: 'redis://me:secret@host/1'}\n",
            'search.storage: "redis://***@host/1" is not allowed; must be the address of a database, which begins '
            "with sqlite://, postgresql://, mysql://",
        ),
        ("seeds: [1, 2, 1]\n", "seeds.2: 1 is there twice; every seed must differ"),
        (
            "pruning: {type: median}\n",
            "pruning.type: median is not allowed with one seed; pruning stops a configuration between its seeds",
        ),
        (
            "seeds: 2\npruning: {type: median, after_seeds: 2}\n",
            "pruning.after_seeds: 2 is not allowed; must be less than the number of seeds, which is 2",
        ),
        (
            "seeds: [1000, 1]\nconfirmation: {seeds: 2}\n",
            "confirmation.seeds: 1000 is not allowed; a confirmation needs seeds of its own, each once",
        ),
        (
            "deepspeed: {extra: {gradient_clipping: 1}}\n",
            "deepspeed.extra.gradient_clipping: is not allowed here; set training.clip_norm instead",
        ),
        (
            "deepspeed: {extra: {zero_optimization: {stage: 2}}}\n",
            "deepspeed.extra.zero_optimization.stage: is not allowed here; set deepspeed.zero_stage instead",
        ),
        (
            "deepspeed: {extra: {zero_optimization: {zero_hpz_partition_size: 4}}}\n",
            "deepspeed.extra.zero_optimization.zero_hpz_partition_size: 4 is not allowed; "
            "it keeps copies of the weights that sparse updates do not reach",
        ),
        (
            "deepspeed: {extra: {zero_optimization: 2}}\n",
            "deepspeed.extra.zero_optimization: 2 is not allowed; must be a section of `key: value` lines",
        ),
    ],
)
def test_fields_that_do_not_fit_together(problems, more, expected):
    line = 5 + more.count("\n") - 1
    assert problems(more) == [f"sweep.yaml:{line}: {expected}"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.ood=[max, max]", 'data.ood.1: "max" is there twice; every task must differ'),
        ("data.ood=[sum]", 'data.ood.0: "sum" is not allowed; it is the task trained on, and must not be among'),
        ("data.train=[sum, sum]", 'data.train.1: "sum" is there twice; every task must differ'),
        ("data.train=[sum]", 'data.train: ["sum"] is not allowed; must be two tasks or more; for one write its name'),
        ("data.train=3", "data.train: 3 is not allowed; must be text; put it in quotes"),
        ("data.prompt='{input}'", 'data.prompt: "{input}" is not allowed; must contain {instruction}, or be `chat`'),
        ("data.root=generatd", 'data.root: "generatd" is not allowed; must be `hub`, `generated`, a folder or an'),
        ("methods.1.name=gallop", 'methods.1.name: "gallop" is taken; two methods need two names'),
        ("methods.1.name=training", 'methods.1.name: "training" is not allowed as a name; it is the name of a section'),
        ("methods.1.name=method", 'methods.1.name: "method" is not allowed as a name'),
    ],
)
def test_overrides_that_do_not_fit(problems, override, expected):
    assert [line for line in problems("", override) if line.startswith(f"--set {override}: {expected}")]


def test_a_task_of_several_is_no_ood_task(problems):
    (line,) = problems("", "data.train=[sum, max]")
    assert line.startswith('sweep.yaml:3: data.ood.0: "max" is not allowed; it is the task trained on')


def test_what_fits_is_accepted(load, tmp_path):
    load("", "data.ood=[]", "objective.metric=val_id_accuracy")
    assert load("", "data.ood=[]").objective.metric == "val_id_accuracy"
    assert [each.ood for each in load("", "data.train=[sum, first]").data.rounds] == [
        ("first", "max", "min"),
        ("sum", "max", "min"),
    ]
    load("", "data.train=[sum, first]", "data.ood=[]")
    load("", "data.prompt=chat")
    load("", f"data.root={tmp_path}")
    load("", "deepspeed.zero_stage=3", "deepspeed.offload_parameters=true")
    load("", "seeds=2", "pruning.type=median")
    load("", "deepspeed.extra={zero_optimization: {overlap_comm: true, zero_hpz_partition_size: 1}}")
    load("", "training.batch_size=48", "resources.workers_per_slot=3")


def test_a_metric_of_other_tasks_that_is_written_needs_some(problems):
    (line,) = problems("objective: {metric: val_mean_accuracy}\n", "data.ood=[]")
    assert line.startswith("sweep.yaml:5: objective.metric: val_mean_accuracy is not allowed without data.ood; list")


SPACE = "search:\n  space:\n    "


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("training.learning_rat: {log: [1, 2]}", ": there is no such field; did you mean `training.learning_rate`?"),
        ("training.xyz: {log: [1, 2]}", ": there is no such field; allowed are training.epochs, training.steps, "),
        ("method.densty: {log: [0.1, 1]}", ": no method has this option; did you mean `method.density`?"),
        ("lora.density: {log: [0.1, 1]}", ": no method has this option; a path begins with training, method, "),
        ("gallop.name: {choice: [a]}", ": no method has this option"),
        ("gallop.training.epoch: {log: [1, 2]}", ": no method has this option; did you mean `gallop.training.epochs`?"),
        ("data.train: {choice: [a]}", ": cannot be searched: data is fixed for a sweep, because slots keep the model"),
        ("deepspeed.zero_stage: {choice: [1]}", ": cannot be searched: deepspeed is fixed"),
        ("method.density: {linear: [0.1, 1.5]}", ".linear.1: 1.5 is not allowed; must be at most 1"),
        ("gallop.density: {choice: [0.1, {lora_rank: 0}]}", ".choice.1: 0 is not allowed; must be at least 1"),
        ("training.schedule: {choice: [linear, cosin]}", ".choice.1: \"cosin\" is not allowed; must be 'linear',"),
        ("training.schedule: {linear: [0, 1]}", ": linear is not allowed; schedule is not a number, so use {choice:"),
        ("training.gradient_checkpointing: {integer: [0, 1]}", ": integer is not allowed; gradient_checkpointing is"),
        ("lora.rank: {log: [1, 64]}", ": log is not allowed; rank is a whole number, so use integer or choice"),
        ("training.epochs: {log: [0, 1]}", ".log: [0, 1] is not allowed; both ends of a log range must be greater"),
        ("training.epochs: {linear: [2, 1]}", ".linear: [2, 1] is not allowed; the low end must be below the high"),
        ("training.epochs: {linear: [2]}", ".linear: [2] is not allowed; must be two numbers, [low, high]"),
        ("training.max_length: {integer: [8, 9.5]}", ".integer.1: 9.5 is not allowed; must be a whole number"),
        ("training.epochs: {choice: []}", ".choice: [] is not allowed; must hold at least one value"),
        ("training.epochs: {choice: [1, 1]}", ".choice: [1, 1] is not allowed; the values must differ, but 1 is there"),
        ("training.epochs: {log: [1, 2], choice: [1]}", ": {"),
        ("training.epochs: {uniform: [1, 2]}", ': {"uniform": [1, 2]} is not allowed; must be one of {log: [low,'),
        ("training.epochs: {choice: 3}", ".choice: 3 is not allowed; must be a list, such as [a, b]"),
    ],
)
def test_a_search_space_entry_that_cannot_work_is_one_problem(problems, entry, expected):
    lines = problems(f"{SPACE}{entry}\n")
    assert len(lines) == 1
    assert lines[0].startswith(f"sweep.yaml:7: search.space.{entry.split(':')[0]}{expected}")


FIRST = """\
search:
  sampler: grid
  space:
    lora.rank: {integer: [1, 3]}
    training.clip_norm: {choice: [1, null]}
    gallop.density: {log: [0.01, 0.1]}
    method.density: {linear: [0.01, 0.1]}
  first:
    - {gallop.density: 0.5}
    - {gallop.densty: 0.05}
    - {gallop.density: 0.05, lora.rank: 1}
    - training.clip_norm: null
      lora.rank: 7
    - {training.clip_norm: 1}
    - {training.clip_norm: 1.0}
    - {lora.rank: true}
"""


def test_what_a_grid_and_first_points_cannot_hold_is_told_on_its_line(problems):
    endless = "is not allowed with sampler grid, which tries every value; use integer or choice"
    assert problems(FIRST) == [
        f"sweep.yaml:10: search.space.gallop.density: log {endless}",
        f"sweep.yaml:11: search.space.method.density: linear {endless}",
        'sweep.yaml:13: search.first.0.gallop.density: 0.5 is not allowed; search.space has {"log": [0.01, 0.1]} here',
        "sweep.yaml:14: search.first.1.gallop.densty: is not a key of search.space; did you mean `gallop.density`?",
        "sweep.yaml:15: search.first.2: no method searches all of these keys; write one point per method",
        'sweep.yaml:17: search.first.3.lora.rank: 7 is not allowed; search.space has {"integer": [1, 3]} here',
        "sweep.yaml:19: search.first.5: is there twice; every point must differ",
        'sweep.yaml:20: search.first.6.lora.rank: true is not allowed; search.space has {"integer": [1, 3]} here',
    ]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("[{}]", "7: search.first.0: {} is not allowed; must not be empty"),
        ("[3]", "7: search.first.0: 3 is not allowed; must be a section of `key: value` lines"),
        ("{lora.rank: 3}", '7: search.first: {"lora.rank": 3} is not allowed; must be a list, such as [a, b]'),
    ],
)
def test_first_points_of_another_form(problems, first, expected):
    space = "{lora.rank: {integer: [1, 3]}}"
    assert problems(f"search:\n  space: {space}\n  first: {first}\n") == [f"sweep.yaml:{expected}"]


def test_a_point_that_another_methods_own_range_overrides_is_for_the_others(load):
    space = "{training.clip_norm: {choice: [1, 2]}, lora.training.clip_norm: {choice: [3, 4]}}"
    sweep = load(f"search: {{space: {space}, first: [{{training.clip_norm: 2}}]}}\n")
    gallop, lora = sweep.methods
    assert first_points(sweep, gallop) == [{"training.clip_norm": 2}]
    assert first_points(sweep, lora) == []


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("{metrics: [val_id_accuracy, val_id_accuracy]}", "metrics.1: val_id_accuracy is there twice; every metric"),
        ("{metrics: [val_id_accuracy]}", 'metrics: ["val_id_accuracy"] is not allowed; must be two metrics or more;'),
        ("{metrics: val_id_accuracy}", 'metrics: "val_id_accuracy" is not allowed; must be a list'),
        ("{metrics: [ood_accuracy, val_id_accuracy]}", 'metrics.0: "ood_accuracy" is not allowed; must be \'val_mean'),
        (
            "{metrics: [val_id_accuracy, val_ood_accuracy], metric: val_ood_accuracy}",
            "metric: val_ood_accuracy is not allowed beside metrics; give either metric or metrics",
        ),
        ("{standard_errors: -1}", "standard_errors: -1 is not allowed; must be at least 0"),
        ("{standard_errors: 1}", "standard_errors: 1 is not allowed with one seed, which has no standard error; add"),
    ],
)
def test_objectives_that_cannot_be(problems, objective, expected):
    lines = problems(f"objective: {objective}\n")
    assert len(lines) == 1
    assert lines[0].startswith(f"sweep.yaml:5: objective.{expected}")


def test_pruning_is_refused_with_several_metrics(problems):
    lines = problems("seeds: 2\npruning: {type: median}\nobjective: {metrics: [val_id_accuracy, val_forget_ratio]}\n")
    message = "median is not allowed with several metrics; pruning needs one, so choose objective.metric, or type: none"
    assert lines == [f"sweep.yaml:6: pruning.type: {message}"]


def test_every_metric_of_several_needs_its_tasks(problems):
    lines = problems("objective: {metrics: [val_id_accuracy, val_forget_ratio]}\n", "data.ood=[]")
    assert lines == [
        "sweep.yaml:5: objective.metrics.1: val_forget_ratio is not allowed without data.ood; "
        "list other tasks there, or choose val_id_accuracy"
    ]


def test_several_metrics_are_each_made_better_in_their_direction(load):
    objective = load("objective: {metrics: [val_forget_ratio, val_id_accuracy]}\n").objective
    assert objective.metric == "val_forget_ratio"
    assert objective.all_metrics == ("val_forget_ratio", "val_id_accuracy")
    assert not objective.maximize


def test_searched_batches_must_divide_too(problems):
    lines = problems(f"{SPACE}lora.training.batch_size: {{choice: [16, 20]}}\n")
    assert lines == [
        "sweep.yaml:7: search.space.lora.training.batch_size: batch_size 20 is not allowed; "
        "must be a multiple of micro_batch_size x workers_per_slot = 8 x 1 = 8"
    ]


@pytest.mark.parametrize(
    ("more", "override", "expected"),
    [
        ("training: {keep: best}", "seeds=2", "5: training.keep: best is not allowed without training.validate_steps"),
        (
            "objective: {metrics: [val_id_accuracy, val_forget_ratio]}\ntraining: {validate_steps: 5, keep: best}",
            "seeds=2",
            "6: training.keep: best is not allowed with several metrics; the best step is that of one, so choose",
        ),
        (
            "training: {validate_steps: 5}\nsearch: {space: {gallop.training.keep: {choice: [last, best]}}}",
            "training.validate_steps=null",
            "6: search.space.gallop.training.keep: best is not allowed without training.validate_steps",
        ),
    ],
)
def test_the_best_step_needs_something_to_go_by(problems, more, override, expected):
    (line,) = problems(more + "\n", override)
    assert line.startswith(f"sweep.yaml:{expected}")


def test_a_mask_that_changes_is_not_brought_back(problems, load):
    more = "training: {validate_steps: 5, keep: best}\n"
    (line,) = problems(more, "methods.1.type=lift")
    assert line.startswith('--set methods.1.type=lift: methods.1.type: "lift" is not allowed with training.keep: best')
    training = load(more).training
    assert (training.validate_steps, training.keep) == (5, "best")


def test_masks_with_entries_of_several_ages_have_an_optimizer_that_counts_them(problems, load):
    more = "training: {optimizer: NAdam}\n"
    (line,) = problems(more, "methods.0.type=spiel")
    assert line.startswith("sweep.yaml:5: training.optimizer: nadam is not allowed with spiel, which chooses some")
    space = "search: {space: {training.optimizer: {choice: [sgd, adam]}}}\n"
    (line,) = problems(space, "methods.0.type=sara")
    assert line.startswith("sweep.yaml:5: search.space.training.optimizer: adam is not allowed with sara")
    assert load(more).training.optimizer == "NAdam"


def test_checks_run_beside_field_errors_but_say_nothing_about_wrong_fields(problems):
    lines = problems("training: {learning_rate: 0, batch_size: 30}\nresources: {gpus_per_worker: -1}\n")
    assert [line.split(": ")[1] for line in lines] == [
        "training.learning_rate",
        "training.batch_size",
        "resources.gpus_per_worker",
    ]
    assert len(problems("training: {batch_size: 30, micro_batch_size: x}\n")) == 1
