"""Optimizers by name under DeepSpeed, and the float32 masters under bfloat16."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask
from gallop_ray.sparse.optimizers import MASTER
from gallop_ray.sparse.weights import gather_all
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.attach import attached
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import train
from gallop_ray.training.optimizers import goes_by_tensors, make_optimizer, try_optimizer, try_trainings
from gallop_ray.training.run import _optimizer as run_optimizer
from gallop_ray.training.warm_up import changes_of_full_training
from tests.training import tiny
from tests.training.test_equality import Losses


def trained(sweep: Sweep) -> dict[str, Any]:
    """On each rank: losses of a sparse run, the optimizer's whole vectors after it, and the values in the model."""
    resident, reporter = tiny.resident(sweep), Losses()
    chosen = {n: m.view(-1).nonzero().view(-1).to(torch.int32) for n, m in tiny.mask_tensors().items() if m.any()}
    delta = SparseDelta(resident.model, find_candidates(resident.model), Mask(chosen))
    context = tiny.context(resident, reporter=reporter)
    config = resident.config(sweep.training, sum(i.numel() for i in delta.indices))
    engine = Engine(delta.module, config, make_optimizer(sweep.training, delta.parameters))
    train(context, delta, engine)
    state, shared = engine.state(delta.parameters).read()
    values = torch.cat([v.clone() for v in gather_all(delta.parameters)])
    engine.close()
    delta.detach()
    state_whole = {key: torch.cat(vectors) for key, vectors in state.items()}
    return {"losses": reporter.losses, "state": state_whole, "shared": shared, "values": values}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_state_is_whole_at_every_stage(ranks: Callable, stage: int) -> None:
    (here, there), (alone, _) = (ranks(2)(trained, tiny.sweep(s, workers=2)) for s in (stage, 1))
    assert here["state"].keys() == {MASTER, "exp_avg", "exp_avg_sq"}
    assert float(here["shared"]["step"]) == 5
    for key, vector in here["state"].items():
        assert torch.equal(vector, there["state"][key]), "the ranks agree"
        torch.testing.assert_close(vector, alone["state"][key], atol=1e-6, rtol=1e-4)
    assert torch.equal(here["values"], here["state"][MASTER])


@pytest.mark.parametrize("stage", [1, 3])
def test_masters_keep_what_bfloat16_cannot(ranks: Callable, stage: int) -> None:
    """Steps too small for bfloat16 to see add up in the masters until they show."""
    sweep = tiny.sweep(stage, "bfloat16", workers=2, steps=30, learning_rate=1e-5, schedule="constant")
    result, _ = ranks(2)(trained, sweep)
    start, _ = ranks(2)(trained, sweep.model_copy(update={"training": sweep.training.model_copy(update={"steps": 1})}))
    masters = result["state"][MASTER]
    assert torch.equal(masters.bfloat16(), result["values"])
    assert float((masters != masters.bfloat16().float()).float().mean()) > 0.9
    assert float((masters - start["state"][MASTER]).abs().min()) > 0, "every master has moved"
    moved = float((result["values"] != start["values"]).float().mean())
    assert 0.2 < moved < 1, "and some of the weights"


@pytest.mark.parametrize(
    ("name", "options", "state"),
    [("sgd", {"momentum": 0.9}, "momentum_buffer"), ("Adafactor", {}, "variance"), ("nadam", {}, "exp_avg")],
)
def test_other_optimizers_learn(ranks: Callable, name: str, options: dict[str, Any], state: str) -> None:
    losses = {}
    for stage in (1, 3):
        sweep = tiny.sweep(
            stage, workers=2, optimizer=name, optimizer_options=options, learning_rate=0.01, batch_size=24, steps=6
        )
        result, other = ranks(2)(trained, sweep)
        losses[stage] = result["losses"]
        assert result["losses"] == other["losses"]
        assert result["losses"][-1] < result["losses"][0]
        assert state in result["state"]
    # Adafactor takes norms of the pieces that a rank holds, which differ from stage to stage.
    assert losses[1] == pytest.approx(losses[3], abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adamm"}, r"torch has no 'adamm'; did you mean `adam"),
        ({"optimizer_options": {"beta": 1}}, "'beta'"),
    ],
)
def test_what_torch_does_not_know_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_optimizer(tiny.sweep(**wrong).training, [torch.nn.Parameter(torch.zeros(1))])


def test_what_the_optimizer_of_a_changing_mask_does_not_have_is_refused() -> None:
    training = tiny.sweep(optimizer_options={"amsgrad": True}).training
    values = [torch.nn.Parameter(torch.zeros(1))]
    assert make_optimizer(training, values).defaults["amsgrad"]
    with pytest.raises(ValueError, match=r"^training.optimizer_options: adamw with steps .*'amsgrad'"):
        make_optimizer(training, values, entry_ages=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "lbfgs"}, "lbfgs cannot train the entries of a mask, a vector: .*closure"),
        ({"optimizer": "sparseadam"}, "sparseadam cannot train"),
        ({"optimizer": "Muon"}, "Muon cannot train the entries of a mask, a vector: "),
        ({"optimizer": "Optimizer"}, "torch has no 'Optimizer'"),
        ({"optimizer_options": {"betas": [0.9, 1.5]}}, "adamw cannot train .*[Bb]eta"),
        ({"optimizer_options": {"eps": -1.0}}, "adamw cannot train .*eps"),
        ({"optimizer_options": {"betas": 0.9}}, "training.optimizer_options: .*not subscriptable"),
        ({"optimizer_options": {"eps": 0.0, "lr_decay": 1}}, "training.optimizer_options: .*lr_decay"),
        ({"optimizer": "tests.training.test_optimizers:Still"}, "Still cannot train .*leaves a parameter"),
    ],
)
def test_what_cannot_train_entries_is_told_before_a_run(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        try_optimizer(tiny.sweep(**wrong).training)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "nadam", "rmsprop", "adagrad"])
def test_what_can_train_entries_passes(name: str) -> None:
    try_optimizer(tiny.sweep(optimizer=name).training)
    if name != "adafactor":
        try_optimizer(tiny.sweep(optimizer=name).training, (4, 4))


def sweep_of(method: dict[str, Any], optimizer: str, stage: int) -> Sweep:
    return Sweep.model_validate(tiny.sweep(stage, optimizer=optimizer).model_dump() | {"methods": [method]})


@pytest.mark.parametrize(
    ("method", "optimizer", "stage", "said"),
    [
        ("lora", "adafactor", 0, r"adafactor keeps row_var of shape \(4, 1\) .* checkpoints cannot hold"),
        ("full", "muon", 0, "muon cannot train norms, biases and the like, a vector: "),
        ("lora", "muon", 1, "muon cannot train all parameters, which ZeRO makes one of, a vector: "),
        ("lora", "adafactor", 1, None),
        ("lora", "muon", 0, None),
        ("gallop", "adafactor", 0, None),
    ],
)
def test_an_optimizer_is_tried_on_what_it_will_step(method: str, optimizer: str, stage: int, said: str | None) -> None:
    if said is None:
        try_trainings(sweep_of({"type": method}, optimizer, stage))
        return
    with pytest.raises(ValueError, match=said):
        try_trainings(sweep_of({"type": method}, optimizer, stage))


@pytest.mark.parametrize("name", ["adamw", "sgd", "nadam", "rmsprop"])
def test_most_optimizers_step_every_entry_by_itself(name: str) -> None:
    assert not goes_by_tensors(tiny.sweep(optimizer=name).training)
    assert goes_by_tensors(tiny.sweep(optimizer="adafactor").training)


def pulled(stage: int, method: dict[str, Any]) -> list[float]:
    """How far strong decay to the base, and to zero, moves a tuner's parameters in three steps of hardly any rate."""
    found = []
    for target in ("base", "zero"):
        sweep = tiny.sweep(stage, steps=3, decay_to=target, **DECAY)
        resident = tiny.resident(sweep)
        context = tiny.context(resident, method=method)
        with attached(context) as what:
            start = [p.clone() for p in gather_all(what.attachment.parameters)]
            config = resident.config(sweep.training, sum(p.numel() for p in start))
            engine = Engine(what.attachment.module, config, run_optimizer(context, what))
            train(context, what.attachment, engine, decay=what.decay)
            now = gather_all(what.attachment.parameters)
            found.append(max(float((a.view(-1) - b.view(-1)).abs().max()) for a, b in zip(now, start, strict=True)))
            engine.close()
    return found


DECAY = {"optimizer": "sgd", "learning_rate": 1e-4, "weight_decay": 1000.0, "schedule": "constant", "warmup_ratio": 0}


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("method", [{"type": "dora"}, {"type": "peft", "tuner": "ia3"}], ids=["dora", "ia3"])
def test_decay_to_the_base_pulls_a_tuner_to_where_it_began(ranks: Callable, stage: int, method: dict[str, Any]) -> None:
    to_base, to_zero = ranks(1)(pulled, stage, method).pop()
    assert to_base < 0.001 < 0.04 < to_zero


HYBRID = {"type": "hybrid", "parts": [{"type": "gallop", "density": 0.05}, {"type": "dora", "rank": 2}]}


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize(
    "method", [{"type": "full"}, {"type": "child_tuning"}, HYBRID], ids=["full", "child", "hybrid"]
)
def test_decay_to_the_base_is_for_all_that_is_trained(ranks: Callable, stage: int, method: dict[str, Any]) -> None:
    for to_base, to_zero in ranks(2)(pulled, stage, method):
        assert to_base < 0.01 < 0.04 < to_zero


def changed(stage: int) -> list[float]:
    """The largest change that lt_sft's full fine-tuning finds, with strong decay to the base and to zero."""
    found = []
    for target in ("base", "zero"):
        context = tiny.context(tiny.resident(tiny.sweep(stage, workers=2, steps=3, decay_to=target, **DECAY)))
        owned = changes_of_full_training(context, find_candidates(context.resident.model), 3)
        found.append(max(float(change.abs().max()) for change in owned.sums.values()))
    return found


@pytest.mark.parametrize("stage", [1, 3])
def test_decay_to_the_base_holds_while_lt_sft_trains_everything(ranks: Callable, stage: int) -> None:
    for to_base, to_zero in ranks(2)(changed, stage):
        assert to_base < 0.1 * to_zero


class Still(torch.optim.SGD):
    """Takes gradients and does nothing."""

    def step(self, closure: Any = None) -> None:
        """Nothing."""
