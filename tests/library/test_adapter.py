"""An adapter in any training loop: weights follow without a call, state dicts are plain, the base comes back."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gallop_ray.sparse import (
    EntryAdamW,
    GallopSpec,
    LiftSpec,
    Mask,
    RandomSpec,
    SaraSpec,
    SparseAdapter,
    SpielSpec,
    apply_adapter,
    attach,
    select_mask,
)
from gallop_ray.spec.other_methods import LoraSpec
from tests.training import tiny

GALLOP = GallopSpec(density=0.05)


def a_model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    return tiny.model(dtype).requires_grad_(True)


def batches(count: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, tiny.VOCABULARY, (count, 4, 12), generator=generator)
    return [{"input_ids": one, "labels": one} for one in ids]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4, after: Any = lambda: None) -> list[float]:
    losses, data = [], batches()
    for step in range(steps):
        loss = model(**data[step % 3]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after()
        losses.append(loss.item())
    return losses


def adamw(adapter: SparseAdapter, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(adapter.parameters(), lr=1e-2, **options)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(now: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, list[int]]:
    found = {n: (now[n] != base[n]).view(-1).nonzero().view(-1).tolist() for n in base}
    return {n.removesuffix(".weight"): entries for n, entries in found.items() if entries}


@pytest.fixture
def base() -> dict[str, Tensor]:
    return weights(a_model())


@pytest.mark.parametrize("fused", [True, False])
def test_there_is_no_call_to_forget(base: dict[str, Tensor], fused: bool) -> None:
    """The fused AdamW, Trainer's default, does not even count the versions of what it changes."""
    losses, ends = {}, {}
    for explicit in (True, False):
        model = a_model()
        adapter = attach(model, GALLOP, batches())
        write = adapter._write if explicit else lambda: None
        losses[explicit] = train(model, adamw(adapter, fused=fused), 12, after=write)
        ends[explicit] = weights(model)
    assert losses[True] == losses[False]
    assert losses[False][-1] < losses[False][0] - 0.05
    assert tiny.same(ends[True], ends[False])
    assert changed(ends[False], base) == {name: i.tolist() for name, i in adapter.mask.indices.items()}


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    losses = []
    for checkpoints in (False, True):
        model = a_model().train()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        adapter = attach(model, GALLOP, batches())
        losses.append(train(model, adamw(adapter)))
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_two_forward_passes_may_wait_for_one_backward_pass() -> None:
    model = a_model()
    adapter = attach(model, GALLOP, batches())
    first, second = batches()[:2]
    (model(**first).loss + model(**second).loss).backward()
    both = [p.grad.clone() for p in adapter.parameters()]
    for p in adapter.parameters():
        p.grad = None
    for batch in (first, second):
        model(**batch).loss.backward()
    torch.testing.assert_close(both, [p.grad for p in adapter.parameters()], atol=1e-6, rtol=1e-5)


def test_what_is_read_after_the_last_step_is_trained(base: dict[str, Tensor], tmp_path: Path) -> None:
    """Nothing runs forward between the last step and the reading."""
    ends = {}
    for reading in ("state_dict", "save_pretrained", "merge", "save", "evaluation", "inference mode"):
        model = a_model()
        adapter = attach(model, GALLOP, batches())
        train(model, adamw(adapter))
        values = {n: v.detach().clone() for n, v in zip(adapter.mask.indices, adapter.parameters(), strict=True)}
        if reading == "merge":
            assert adapter.merge() is model
        if reading == "save":
            adapter.save(tmp_path / "adapter.safetensors")
        if reading == "evaluation":
            with torch.no_grad():
                model.eval()(**batches()[0])
        if reading == "inference mode":
            with torch.inference_mode():
                model.eval()(**batches()[0])
        found = dict(model.named_parameters())
        if reading == "state_dict":
            found = model.state_dict()
        if reading == "save_pretrained":
            model.save_pretrained(tmp_path / "model")
            found = dict(LlamaForCausalLM.from_pretrained(tmp_path / "model").named_parameters())
        ends[reading] = {n: found[n].detach().clone() for n in base}
        for name, trained in values.items():
            entries = ends[reading][f"{name}.weight"].view(-1)[adapter.mask.indices[name]]
            torch.testing.assert_close(entries, trained, atol=2e-8, rtol=2e-7)
    exact = [end for reading, end in ends.items() if reading not in ("merge", "save")]
    assert all(tiny.same(end, exact[0]) for end in exact)


def test_the_state_dict_is_the_plain_model_s(base: dict[str, Tensor]) -> None:
    model = a_model()
    attach(model, GALLOP, batches())
    assert list(model.state_dict()) == list(base)
    a_model().load_state_dict(model.state_dict())


def test_a_state_dict_takes_training_up_where_it_was() -> None:
    model = a_model()
    adapter = attach(model, GALLOP, batches())
    optimizer = adamw(adapter)
    train(model, optimizer)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    whole = train(model, optimizer), weights(model)
    other = a_model()
    optimizer = adamw(attach(other, GALLOP, batches()))
    other.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    assert (train(other, optimizer), True) == (whole[0], tiny.same(weights(other), whole[1]))


def test_a_state_dict_with_other_weights_outside_of_the_mask_is_refused(base: dict[str, Tensor]) -> None:
    model = a_model()
    attach(model, GALLOP, batches())
    name = "model.layers.0.mlp.up_proj.weight"
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"up_proj.weight differs .* outside of the mask"):
            model.load_state_dict({**base, name: base[name] + 1}, strict=strict)
    with pytest.raises(RuntimeError, match="assign=True"):
        model.load_state_dict(base, assign=True)


def test_a_saved_adapter_gives_the_trained_model(base: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    model = a_model()
    adapter = attach(model, GALLOP, batches())
    train(model, adamw(adapter))
    adapter.save(path, {"task": "mine"})
    trained = weights(model)
    assert adapter.detach() is model
    assert tiny.same(weights(model), base)
    assert all(p.requires_grad for p in model.parameters())
    applied = apply_adapter(model, path)
    assert tiny.same(weights(model), trained)
    applied.remove()
    loaded = SparseAdapter.load(model, path)
    assert tiny.same(weights(model), trained)
    assert loaded.mask.chosen == adapter.mask.chosen
    train(model, adamw(loaded))
    loaded.detach()
    assert tiny.same(weights(model), base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_too_small_for_the_weights_add_up(dtype: torch.dtype, tmp_path: Path) -> None:
    model = a_model(dtype)
    before = weights(model)
    adapter = attach(model, GALLOP, batches())
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    optimizer = torch.optim.SGD(adapter.parameters(), lr=1.0)
    for _ in range(200):
        for p in adapter.parameters():
            p.grad = torch.full_like(p, 1e-5)
        optimizer.step()
    for name, indices in adapter.mask.indices.items():
        moved = (before[f"{name}.weight"].float() - model.state_dict()[f"{name}.weight"].float()).view(-1)[indices]
        torch.testing.assert_close(moved, torch.full_like(moved, 2e-3), atol=5e-4, rtol=0)
    adapter.save(tmp_path / "adapter.safetensors")
    trained = weights(model)
    adapter.detach()
    apply_adapter(model, tmp_path / "adapter.safetensors")
    assert tiny.same(weights(model), trained)


def test_a_mask_alone_is_chosen_and_may_be_attached_later(base: dict[str, Tensor]) -> None:
    model = a_model().train()
    model.model.layers[1].eval()
    state = torch.get_rng_state()
    mask = select_mask(model, GALLOP, iter(batches()))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.model.layers] == [True, False]
    assert tiny.same(weights(model), base)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert mask.chosen == round(0.05 * sum(p.numel() for p in model.parameters()))
    adapter = attach(model, GALLOP, mask=mask)
    assert all(torch.equal(adapter.mask.indices[n], i) for n, i in mask.indices.items())


def test_dropout_does_not_choose() -> None:
    masks = []
    for dropout in (0.0, 0.5):
        model = tiny.llama(vocab_size=tiny.VOCABULARY, attention_dropout=dropout).train()
        masks.append(select_mask(model, GALLOP, batches()).indices)
    assert tiny.same(*masks)


def test_a_loss_of_one_s_own() -> None:
    def doubled(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, labels = batch
        return 2 * model(input_ids=ids, labels=labels).loss

    pairs = [(batch["input_ids"], batch["labels"]) for batch in batches()]
    own = select_mask(a_model(), GALLOP, pairs, loss=doubled).indices
    assert tiny.same(own, select_mask(a_model(), GALLOP, batches()).indices)


REFUSED: dict[str, tuple[Callable[[LlamaForCausalLM], Any], str]] = {
    "no batches": (lambda m: attach(m, GALLOP), "gallop scores gradients: give it batches"),
    "none in them": (lambda m: attach(m, GALLOP, []), "no batch to compute gradients on"),
    "no labels": (lambda m: attach(m, GALLOP, [{"input_ids": torch.ones(1, 3).long()}]), "put `labels` into"),
    "no mask method": (lambda m: attach(m, LoraSpec()), "lora chooses no mask"),  # type: ignore[arg-type]
    "selection ratio": (
        lambda m: attach(m, GallopSpec(density=0.05, selection_ratio=0.5), batches()),
        "selection_ratio is of a sweep",
    ),
    "too dense": (lambda m: attach(m, RandomSpec(density=1.0)), "lower the density"),
    "twice": (lambda m: [attach(m, RandomSpec()), attach(m, RandomSpec())], "has an adapter attached already"),
    "mask of another model": (
        lambda m: attach(m, GALLOP, mask=Mask({"model.layers.7.mlp.up_proj": torch.tensor([1])})),
        "up_proj' matches nothing",
    ),
    "mask that does not fit": (
        lambda m: attach(m, GALLOP, mask=Mask({"model.layers.1.mlp.up_proj": torch.tensor([3, 10**6])})),
        "the mask does not fit model.layers.1.mlp.up_proj",
    ),
    "nothing to refresh": (
        lambda m: _refreshed(m, RandomSpec(), torch.optim.SGD),
        "there is nothing to refresh",
    ),
    "optimizer made before": (
        lambda m: _refreshed(m, LiftSpec(rank=2), lambda _, lr: torch.optim.SGD([nn.Parameter(torch.ones(1))], lr)),
        "make it of adapter.parameters",
    ),
    "one count of steps": (
        lambda m: _refreshed(m, SaraSpec(), torch.optim.AdamW),
        "use gallop_ray.sparse.EntryAdamW",
    ),
    "refresh forgotten": (
        lambda m: train(m, adamw(attach(m, LiftSpec(rank=2)))),
        r"lift chooses its mask again while it trains: call adapter.refresh_with",
    ),
    "after it was taken off": (lambda m: _detached(m).save("x"), r"save\(\) comes before detach\(\)"),
    "not finite": (lambda m: _not_finite(m).save("x"), "not finite"),
    "other weights changed": (lambda m: _norm_changed(m).save("x"), "model.norm.weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_fix(case: str) -> None:
    do, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        do(a_model())


def _refreshed(model: nn.Module, spec: Any, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    adapter = attach(model, spec)
    adapter.refresh_with(optimizer(adapter.parameters(), lr=0.1), 3)


def _detached(model: nn.Module) -> SparseAdapter:
    adapter = attach(model, RandomSpec())
    adapter.detach()
    return adapter


def _not_finite(model: nn.Module) -> SparseAdapter:
    adapter = attach(model, RandomSpec())
    adapter.parameters()[0].data[0] = float("nan")
    return adapter


def _norm_changed(model: LlamaForCausalLM) -> SparseAdapter:
    adapter = attach(model, RandomSpec())
    model.model.norm.weight.data += 1
    return adapter


def test_an_optimizer_that_knows_nothing_of_the_adapter_is_noticed(tmp_path: Path) -> None:
    model = a_model()
    optimizer = torch.optim.AdamW(model.parameters())
    adapter = attach(model, GALLOP, batches())
    train(model, optimizer)
    with pytest.warns(UserWarning, match="nothing has been learnt"):
        adapter.save(tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("kind", [EntryAdamW, torch.optim.SGD])
def test_a_mask_that_is_chosen_again_moves_and_the_base_comes_back(
    base: dict[str, Tensor], tmp_path: Path, kind: Callable[..., torch.optim.Optimizer]
) -> None:
    model = a_model()
    adapter = attach(model, SpielSpec(density=0.05, refresh_every=3, accumulate=2))
    first = adapter.mask
    adapter.refresh_with(kind(adapter.parameters(), lr=1e-2), 8)
    optimizer = kind(adapter.parameters(), lr=1e-2)
    adapter.refresh_with(optimizer, 8)
    train(model, optimizer, 8)
    assert adapter.mask.chosen == first.chosen
    assert not tiny.same(adapter.mask.indices, first.indices)
    now = changed(weights(model), base)
    adapter.save(tmp_path / "adapter.safetensors")
    saved = load_file(tmp_path / "adapter.safetensors")
    assert all(set(entries) <= set(saved[f"{name}.weight.indices"].tolist()) for name, entries in now.items())
    adapter.detach()
    assert tiny.same(weights(model), base)
