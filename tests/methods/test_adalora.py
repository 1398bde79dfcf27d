"""AdaLoRA under DeepSpeed prunes what plain PEFT prunes, the same on every rank, and resumes amid it."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from gallop_ray.spec.adalora import Schedule
from gallop_ray.tasks.encode import collate
from gallop_ray.testing import Case, check_case
from gallop_ray.training.attach import attached
from gallop_ray.training.batches import batches
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import learning_rate, train
from gallop_ray.training.optimizers import make_optimizer
from tests.training import tiny

SEED, STEPS = 3, 8
OPTIONS = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 2, "orth_reg_weight": 0.3}
METHOD = {"type": "peft", "tuner": "adalora", "options": OPTIONS}
TRAINING = {"steps": STEPS, "clip_norm": 0.5, "weight_decay": 0.01, "loss": "token"}


def trained(stage: int, workers: int, dtype: str = "float32") -> dict[str, Any]:
    """On each rank: the adapter before and after training, and the ranks that are left."""
    resident = tiny.resident(tiny.sweep(stage, dtype, workers, **TRAINING))
    before = tiny.whole_weights(resident.model)
    context = tiny.context(resident, SEED, method=METHOD)
    torch.manual_seed(SEED)
    with attached(context) as what:
        attachment: Any = what.attachment
        start = {n: p.detach().clone() for n, p in attachment.module.named_parameters() if p.requires_grad}
        optimizer = make_optimizer(context.training, attachment.parameters)
        engine = Engine(attachment.module, resident.config(context.training, 1000, context.micro_steps), optimizer)
        train(context, attachment, engine)
        end = {n: p.detach().clone() for n, p in attachment.module.named_parameters() if p.requires_grad}
        masters = engine.state(attachment.parameters).read()[0]["master"]
        ranks = dict(attachment.module.peft_config["default"].rank_pattern)
        engine.close()
    assert tiny.same(tiny.whole_weights(resident.model), before), "the base is restored"
    return {"start": start, "end": end, "masters": dict(zip(end, masters, strict=True)), "ranks": ranks}


def plain_peft(start: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[bool]]]:
    """The same in one process as PEFT's documentation says, with PEFT's own loss: the model's mean over tokens."""
    model = tiny.model()
    names = {n.rpartition(".lora_")[0].removeprefix("base_model.model.") for n in start}
    config = peft.AdaLoraConfig(**OPTIONS, total_step=STEPS, task_type="CAUSAL_LM", target_modules=sorted(names))
    wrapped: Any = peft.get_peft_model(model, config)
    parameters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        parameter.data.copy_(start[name])
    training = tiny.sweep(0, **TRAINING).training
    optimizer = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=training.weight_decay)
    stream = batches(tiny.examples(), training.batch_size, SEED)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(training, step, STEPS)
        wrapped(**collate(next(stream), 0)).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), training.clip_norm)
        optimizer.step()
        wrapped.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
    return {n: p.detach() for n, p in parameters.items()}, config.rank_pattern


@pytest.mark.parametrize(("world", "stage"), [(1, 0), (2, 0), (2, 1), (2, 2)])
def test_it_prunes_and_trains_what_plain_peft_does(ranks: Callable, world: int, stage: int) -> None:
    first, *others = ranks(world)(trained, stage, world)
    for other in others:
        assert other["ranks"] == first["ranks"]
        assert tiny.same(other["end"], first["end"])
    expected, left = plain_peft(first["start"])
    assert first["ranks"] == left
    matrices = [n for n in expected if "lora_E" in n]
    assert sum(map(sum, left.values())) == OPTIONS["target_r"] * len(matrices), "the budget is met"
    assert len({sum(kept) for kept in left.values()}) > 1, "some matrices keep more ranks than others"
    for name, values in expected.items():
        torch.testing.assert_close(first["end"][name], values, atol=2e-5, rtol=1e-3)
        torch.testing.assert_close(first["masters"][name].view_as(values), first["end"][name], atol=0, rtol=0)


def test_in_bfloat16_it_meets_the_budget_on_both_ranks(ranks: Callable) -> None:
    first, second = ranks(2)(trained, 1, 2, "bfloat16")
    assert first["ranks"] == second["ranks"]
    assert sum(map(sum, first["ranks"].values())) == OPTIONS["target_r"] * len(first["ranks"])
    assert not [name for name in first["end"] if "ranknum" in name], "what scales the product is not trained"
    for name, kept in first["ranks"].items():
        (values,) = (v for n, v in first["masters"].items() if n.endswith(name))
        assert (values == 0).tolist() == [not each for each in kept]


@pytest.mark.parametrize(
    ("case", "last"),
    [(Case(1, 1), {"tfinal": 0}), (Case(2, 1), {}), pytest.param(Case(2, 2), {"tfinal": 0}, marks=pytest.mark.long)],
)
def test_it_keeps_the_contract_and_resumes_between_prunings_and_after(case: Case, last: dict[str, int]) -> None:
    """The last checkpoint of the contract's seven steps is of the sixth."""
    options = {"init_r": 4, "target_r": 2, **last}
    check_case(case, "peft", {"tuner": "adalora", "options": options}, learning_rate=1e-2)


def test_the_steps_of_the_run_give_the_schedule() -> None:
    assert Schedule.of({}, 100) == Schedule(100, 10, 50)
    assert Schedule.of({"tfinal": 20}, 3000) == Schedule(3000, 300, 20)
    assert Schedule.of({"total_step": 50, "tinit": 5}, 100) == Schedule(50, 5, 25)
    for options, steps in (({}, 1), ({"tinit": 5, "tfinal": 5}, 10), ({"total_step": 20}, 10)):
        with pytest.raises(ValueError, match=r"no step to prune|more than the 10 steps"):
            Schedule.of(options, steps)
