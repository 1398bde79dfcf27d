"""PEFT's tuners that need more than to be attached and trained are refused where the file names them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gallop_ray.methods.peft import refused_by_peft
from gallop_ray.preflight import sweep_checks
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.other_methods import HybridSpec
from gallop_ray.spec.peft_tuners import REFUSED, WHOLE, WORKING
from gallop_ray.spec.problems import SweepFileError
from tests.spec.conftest import Load, Problems
from tests.sweep import command

SWEEP = """\
name: small
model: {name: pocket}
data: {root: generated, train: sum, ood: [max, min]}
methods:
  - {type: gallop}
  - type: peft
    tuner: TUNER
    options: {OPTIONS}
"""


def sweep_of(tuner: str, options: str = "") -> str:
    return SWEEP.replace("TUNER", tuner).replace("OPTIONS", options)


@pytest.mark.parametrize("tuner", REFUSED)
def test_a_tuner_that_needs_more_is_refused_with_what_to_use(problems: Problems, tuner: str) -> None:
    (line,) = problems(text=sweep_of(tuner))
    assert line.startswith(f'sweep.yaml:7: methods.1.tuner: "{tuner}" is not allowed; it')
    assert line.endswith("; use lora or dora")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("modules_to_save: [lm_head]", "trains copies of whole modules"),
        ("init_lora_weights: LoftQ", "changes the base model's own weights"),
        ("init_lora_weights: eva", "needs a pass over the data before training"),
        ("init_lora_weights: corda", "needs a pass over the data before training"),
        ("init_lora_weights: lora_ga", "needs gradients before training"),
        ("bias: all", "trains biases of the base model"),
        ("bias: lora_only", "trains biases of the base model"),
        ("kasa_config: {}", "takes singular values out of the weights"),
        ("monteclora_config: {}", "draws its noise from a buffer that no checkpoint holds"),
        ("layer_replication: [[0, 2]]", "puts more blocks into the base model"),
        ("alora_invocation_tokens: [1]", "needs the place of these tokens"),
        ("inference_mode: true", "would leave nothing to train"),
        ("task_type: CAUSAL_LM", "is set by gallop-ray"),
    ],
)
def test_an_option_that_needs_more_is_refused_on_its_line(problems: Problems, options: str, expected: str) -> None:
    (line,) = problems(text=sweep_of("lora", options))
    assert line.startswith(f"sweep.yaml:8: methods.1.options.{options.partition(':')[0]}: ")
    assert expected in line


@pytest.mark.parametrize("tuner", WORKING)
def test_a_tuner_that_works_is_taken_but_by_zero_3_where_it_needs_whole_weights(load: Load, tuner: str) -> None:
    load(text=sweep_of(tuner))
    if tuner not in WHOLE:
        load("deepspeed: {zero_stage: 3}\n", text=sweep_of(tuner))
        return
    with pytest.raises(SweepFileError, match=r"not allowed at zero_stage 3; .* use zero_stage 2 or less"):
        load("deepspeed: {zero_stage: 3}\n", text=sweep_of(tuner))


@pytest.mark.parametrize(
    ("options", "more", "expected"),
    [
        ("r: 8", "", "8: methods.1.options.r: 8 is not allowed; is not read by adalora, whose ranks are init_r and"),
        (
            "target_r: 12",
            "",
            "8: methods.1.options.target_r: 12 is not allowed; target_r 12 must be less than init_r 12",
        ),
        ("tinit: -1", "", "8: methods.1.options.tinit: -1 is not allowed; must be a whole number, 0 or more"),
        ("total_step: 90", "training: {steps: 60}", "more than the 60 steps of a run; leave it out"),
        ("tinit: 30, tfinal: 30", "training: {steps: 60}", "leave no step to prune ranks by; lower tinit or tfinal"),
        (
            "",
            "training: {keep: best, validate_steps: 5}",
            '7: methods.1.tuner: "adalora" is not allowed with training.keep',
        ),
    ],
)
def test_adalora_has_to_prune_its_ranks(problems: Problems, options: str, more: str, expected: str) -> None:
    (line,) = problems(f"{more}\n", text=sweep_of("adalora", options))
    assert expected in line


def test_searched_tuners_and_options_are_looked_at_too(problems: Problems, load: Load) -> None:
    space = (
        "search: {space: {peft.options: {choice: [{r: 4}, {r: 8, bias: all}]}, peft.tuner: {choice: [hra, poly]}}}\n"
    )
    options, tuner = sorted(problems(space, text=sweep_of("lora")))
    assert "search.space.peft.options.choice.1.bias" in options
    assert 'search.space.peft.tuner.choice.1: "poly" is not allowed' in tuner
    load("search: {space: {peft.options: {choice: [{r: 4}, {r: 8}]}}}\n", text=sweep_of("lora"))


@pytest.mark.parametrize(
    ("tuner", "options", "expected"),
    [
        (
            "lora",
            "lora_alpa: 4",
            "8: methods.1.options.lora_alpa: is not allowed; PEFT's lora has no",
        ),
        ("boft", "boft_block_size: 8, boft_block_num: 2", "8: methods.1.options.boft_block_size: is not allowed; "),
        (
            "ia3",
            "target_modules: [k_proj], feedforward_modules: [zz]",
            "8: methods.1.options.feedforward_modules: ",
        ),
        ("lorra", "", '7: methods.1.tuner: "lorra" is not allowed; PEFT has no such tuner; did you mean `lora`?'),
    ],
)
def test_what_peft_does_not_take_is_known_from_the_file(
    tmp_path: Path, tuner: str, options: str, expected: str
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(sweep_of(tuner, options), encoding="utf-8")
    with pytest.raises(SweepFileError) as caught:
        load_sweep(path, (), refused_by_peft)
    assert str(caught.value).startswith(f"{path}:{expected}")


def test_what_peft_takes_passes(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(sweep_of("lora", "r: 4, init_lora_weights: gaussian"), encoding="utf-8")
    assert load_sweep(path, (), refused_by_peft).methods[1].name == "peft"
    path.write_text(sweep_of("lora", "r: 4, init_lora_weights: pissa_niter_16"), encoding="utf-8")
    assert load_sweep(path, (), refused_by_peft).methods[1].name == "peft"


def test_a_part_of_the_weights_is_no_beginning_for_dora_or_beside_a_mask(problems: Problems) -> None:
    (line,) = problems(text=sweep_of("lora", "use_dora: true, init_lora_weights: olora"))
    assert "methods.1.options.use_dora: true is not allowed; olora beside it would be of other weights" in line
    part = {"type": "peft", "tuner": "lora", "options": {"init_lora_weights": "pissa"}}
    with pytest.raises(ValidationError, match="init_lora_weights takes a part of the weights themselves"):
        HybridSpec.model_validate({"parts": [{"type": "gallop"}, part]})


def test_doctor_tries_the_options_on_the_model(load: Load) -> None:
    options = "{target_modules: [embed_tokens, q_proj, norm]}"
    sweep = load(
        f"  - {{type: peft, name: odd, tuner: lora, options: {options}}}\n  - {{type: lora}}\n", text=sweep_of("psoft")
    )
    found = {finding.text.partition(":")[0]: finding for finding in sweep_checks.tuners(sweep)}
    assert found["method odd"].level == "problem"
    assert "PEFT's lora does not fit this model: Target module" in found["method odd"].text
    assert found["method lora"].level == "ok"
    assert found.get("method peft") is None or found["method peft"].level == "ok"


def test_a_file_with_tuners_that_change_the_base_ends_before_anything_is_spent(tmp_path: Path) -> None:
    methods = [
        {"type": "peft", "name": "loftq", "tuner": "lora", "options": {"r": 4, "init_lora_weights": "loftq"}},
        {"type": "peft", "name": "head", "tuner": "lora", "options": {"r": 4, "modules_to_save": ["lm_head"]}},
        {"type": "gallop"},
    ]
    ended = command.run("run", command.write_sweep(tmp_path, methods=methods, search={}))
    assert ended.returncode == 2
    assert len(ended.stdout.splitlines()) == 2
    assert "methods.0.options.init_lora_weights" in ended.stdout
    assert "methods.1.options.modules_to_save" in ended.stdout
    assert not (tmp_path / "runs").exists()
