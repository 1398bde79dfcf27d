"""Tiny random models of many families, as a user has them: in a folder, trained by a mask, merged."""

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from gallop_ray.exports.peft_folder import _refuse_unread
from gallop_ray.library.adapter import attach
from gallop_ray.library.selection import select_mask
from gallop_ray.methods import make_method
from gallop_ray.methods.lift import low_rank
from gallop_ray.methods.peft import Dora, Lora, on_disk
from gallop_ray.sparse.adapter import apply_adapter
from gallop_ray.sparse.candidates import find_candidates, parts, places
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.optimizers import EntryAdamW
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.mask_methods import GallopSpec, LiftSpec, RandomSpec, SpielSpec
from gallop_ray.spec.method import LoraRank, MaskMethodSpec
from gallop_ray.spec.other_methods import DoraSpec, LoraSpec
from gallop_ray.tasks.encode import Encoded, answer_loss, answer_positions, collate, encode
from gallop_ray.tasks.generated import generated_examples
from gallop_ray.training.models import load_model, meta_model
from gallop_ray.training.pocket import pocket_tokenizer
from gallop_ray.training.save import save_model
from tests.families import FAMILIES, MIXTURES, OF_TEXT_AND_IMAGES, make_model, write_model

STEPS = 8
Batch = dict[str, Tensor]


@lru_cache(maxsize=1)
def encoded() -> list[Encoded]:
    examples = generated_examples("range", "train", 0)[:16]
    return [encode(one, pocket_tokenizer(), "{instruction}\n{input}\n", 48) for one in examples]


def batches() -> list[Batch]:
    """Of prompts of several lengths, padded on the right."""
    pad = pocket_tokenizer().pad_token_id
    return [collate(encoded()[i : i + 4], pad) for i in range(0, 16, 4)]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """As a sweep computes it: of the answers, and logits of their places alone."""
    labels = batch["labels"]
    positions = answer_positions(labels)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    return answer_loss(model(**inputs, use_cache=False, logits_to_keep=positions).logits, labels, positions).mean()


def logits(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(input_ids=batches()[0]["input_ids"]).logits
    return found


def written(folder: Path) -> Path:
    """A folder that has the tokenizer, too."""
    pocket_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    return write_model(family, tmp_path / "base")


@pytest.mark.parametrize("family", [*FAMILIES, *OF_TEXT_AND_IMAGES])
def test_a_mask_learns_and_the_merged_model_is_the_trained_one(family: str, folder: Path, tmp_path: Path) -> None:
    base = ModelSpec(name=str(folder))
    model, _ = load_model(base)
    before = logits(model)
    adapter = attach(model, GallopSpec(density=0.05), batches(), loss=loss)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=2e-2)
    losses = []
    for _ in range(STEPS):
        for batch in batches():
            found = loss(model, batch)
            found.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(found.item())
    assert sum(losses[-4:]) < 0.985 * sum(losses[:4]), "on the same four batches"
    adapter.save(tmp_path / "adapter.safetensors")
    trained = logits(model)
    assert not torch.equal(trained, before)
    plain, _ = load_model(base)
    apply_adapter(plain, tmp_path / "adapter.safetensors")
    save_model(plain, tmp_path / "merged")
    merged, _ = load_model(ModelSpec(name=str(written(tmp_path / "merged"))))
    # Mamba's own code reads weights past their layers, and rounds in another order while an adapter is attached.
    torch.testing.assert_close(logits(merged), trained, atol=1e-6 if family == "mamba" else 0, rtol=0)
    adapter.detach()
    assert torch.equal(logits(model), before)


def mixture(family: str) -> nn.Module:
    return make_model(family).requires_grad_(False).eval()


@pytest.mark.parametrize("family", MIXTURES)
def test_each_expert_is_a_matrix_whose_gradient_is_autograd_s(family: str) -> None:
    model = mixture(family)
    candidates = find_candidates(model)
    experts = [c for c in candidates if c.expert is not None]
    assert {c.name.rpartition(".")[2] for c in experts} == set("0123")
    assert {len(c.shape) for c in candidates} == {2}
    owned = OwnedGradients(candidates)
    with owned.capture_gradients():
        for batch in batches():
            torch.autograd.backward(loss(model, batch))
    plain = mixture(family)
    weights = dict(plain.named_parameters())
    for c in places(candidates):
        weights[c.path].requires_grad_(True)
    torch.autograd.backward(sum(loss(plain, batch) for batch in batches()))
    for m, c in enumerate(candidates):
        expected = c.of(weights[c.path].grad)
        torch.testing.assert_close(owned.take(m), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_train_as_dense_adamw_with_masked_gradients_does(family: str) -> None:
    model, plain = mixture(family), mixture(family)
    adapter = attach(model, RandomSpec(density=0.05, scope="per_matrix"), seed=1)
    mask, weights = adapter.mask, dict(plain.named_parameters())
    names = {p.name: p.path for p in places(find_candidates(plain))}
    assert set(mask.indices) == set(names)
    for place, indices in mask.indices.items():
        keep = torch.zeros(weights[names[place]].numel())
        keep[indices] = 1
        weight = weights[names[place]].requires_grad_(True)
        weight.register_hook(lambda grad, keep=keep: grad * keep.view_as(grad))
    dense = [weights[path] for path in names.values()]
    optimizers = [torch.optim.AdamW(of, lr=1e-2, weight_decay=0.0) for of in (adapter.parameters(), dense)]
    for batch in batches():
        for each, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(loss(each, batch))
            optimizer.step()
    trained = adapter.merge().state_dict()
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=2e-5)
    assert any(not torch.equal(trained[path], each) for path, each in mixture(family).state_dict().items())


@pytest.mark.parametrize(
    "spec", [LiftSpec(density=0.05, rank=2, refresh_every=1), SpielSpec(density=0.05, accumulate=1)]
)
def test_a_mask_that_is_chosen_again_keeps_what_each_expert_has(spec: MaskMethodSpec) -> None:
    model = mixture("mixtral")
    adapter = attach(model, spec, batches()[:1], loss=loss)
    optimizer = EntryAdamW(adapter.parameters(), lr=1e-2)
    adapter.refresh_with(optimizer, steps=4)
    before = adapter.mask
    for batch in batches():
        torch.autograd.backward(loss(model, batch))
        optimizer.step()
        optimizer.zero_grad()
    after, changed = adapter.mask, 0
    for place in places(find_candidates(mixture("mixtral"))):
        size = place.numel // len(parts(place))
        of_before, of_after = (torch.bincount(m.indices[place.name].long() // size) for m in (before, after))
        assert torch.equal(of_before, of_after)
        changed += not torch.equal(before.indices[place.name], after.indices[place.name])
    assert changed
    adapter.detach()
    fresh = mixture("mixtral").state_dict()
    assert all(torch.equal(weight, fresh[name]) for name, weight in model.state_dict().items())


def test_a_lift_of_experts_is_that_of_each_by_itself() -> None:
    model = mixture("mixtral")
    spec = LiftSpec(density=LoraRank(lora_rank=1), rank=2)
    mask = select_mask(model, spec)
    place = next(p for p in places(find_candidates(model)) if p.name.endswith("experts.down_proj"))
    expected = []
    for expert in parts(place):
        scores = low_rank(expert.of(place.weight), 2).abs().view(-1)
        expected.append(scores.topk(sum(expert.shape)).indices.sort().values + expert.offset)
    assert mask.indices[place.name].tolist() == torch.cat(expected).tolist()


def test_the_state_dict_of_a_mixture_with_an_adapter_is_the_plain_one_s() -> None:
    model = mixture("gpt_oss")
    plain = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapter = attach(model, RandomSpec(density=0.05))
    assert model.state_dict().keys() == plain.keys()
    for values in adapter.parameters():
        values.data += 1
    moved = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert not torch.equal(moved["model.layers.0.mlp.experts.down_proj"], plain["model.layers.0.mlp.experts.down_proj"])
    model.load_state_dict(plain)
    assert all(torch.equal(weight, plain[name]) for name, weight in model.state_dict().items())
    with pytest.raises(RuntimeError, match=r"experts\.down_proj differs from the base model's outside of the mask"):
        model.load_state_dict({name: weight + 1 for name, weight in plain.items()})


@pytest.mark.parametrize(
    ("patterns", "ends"),
    [
        (["experts"], {"gate_up_proj", "down_proj"}),
        (["gate_up_proj"], {"gate_up_proj"}),
        ("all-linear", {"gate_up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "o_proj"}),
        (r".*layers\.1\.mlp\.experts\.down_proj", {"down_proj"}),
        (["router", "experts.down_proj"], {"router", "down_proj"}),
    ],
)
def test_experts_are_named_as_other_weights_are(patterns: str | list[str], ends: set[str]) -> None:
    found = places(find_candidates(mixture("gpt_oss"), patterns))
    assert {place.name.rpartition(".")[2] for place in found} == ends


@pytest.mark.parametrize("family", MIXTURES)
def test_lora_adapts_what_masks_choose_from_and_the_merged_model_is_the_wrapped_one(family: str) -> None:
    model, plain = mixture(family), mixture(family)
    expected = sum(2 * sum(c.shape) for c in find_candidates(model))
    attachment = Lora(LoraSpec(rank=2)).attach(model)
    assert sum(p.numel() for p in attachment.parameters) == expected
    for number, parameter in enumerate(attachment.parameters):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    wrapped = logits(attachment.module)
    assert not torch.allclose(wrapped, logits(plain))
    attachment.detach()
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in model.state_dict().items())
    again: Any = Lora(LoraSpec(rank=2)).attach(model).module
    for number, parameter in enumerate(p for p in again.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    torch.testing.assert_close(logits(again.merge_and_unload()), wrapped, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            LoraSpec(dropout=0.1),
            "PEFT has no dropout for model.layers.0.mlp.experts.gate_up_proj, .*; set dropout to 0",
        ),
        (DoraSpec(target_modules=("experts",)), "tuners adapt linear layers, and .*experts.gate_up_proj holds experts"),
    ],
)
def test_what_peft_cannot_do_with_experts_is_refused(spec: LoraSpec, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_method(spec).attach(mixture("mixtral"))  # type: ignore[union-attr]


def test_lora_s_own_targets_leave_out_what_peft_refuses_and_named_ones_do_not() -> None:
    """Mamba's kernels read the weight of out_proj past its layer."""
    adapted = Lora(LoraSpec(rank=2)).attach(make_model("mamba")).module.named_parameters()
    names = {name.partition(".lora_")[0].rpartition(".")[2] for name, p in adapted if p.requires_grad}
    assert names == {"in_proj", "x_proj", "dt_proj"}
    with pytest.raises(ValueError, match="'out_proj' is incompatible with Mamba"):
        Lora(LoraSpec(rank=2, target_modules=("out_proj",))).attach(make_model("mamba"))


def test_dora_leaves_experts_out() -> None:
    attachment = Dora(DoraSpec(rank=2)).attach(mixture("mixtral"))
    assert not [name for name, p in attachment.module.named_parameters() if p.requires_grad and "experts" in name]


@pytest.mark.parametrize("family", OF_TEXT_AND_IMAGES)
def test_of_a_model_of_text_and_images_the_text_decoder_alone_is_the_target(family: str, folder: Path) -> None:
    model, _ = load_model(ModelSpec(name=str(folder)))
    adapter = attach(model, RandomSpec(density=0.05, scope="per_matrix"), batches()[:1], loss=loss)
    chosen = set(adapter.mask.indices)
    assert len(chosen) == 14
    assert all(".language_model.layers." in name for name in chosen)
    planned = meta_model(ModelSpec(name=str(folder)))
    assert {c.name for c in find_candidates(planned)} == chosen
    assert [name for name, _ in planned.named_parameters() if "vision" in name or "visual" in name]


@pytest.mark.parametrize(("family", "read"), [("mixtral", True), ("deepseek_v3", False)])
def test_a_peft_folder_of_experts_is_what_was_attached_or_is_refused(
    family: str, read: bool, folder: Path, tmp_path: Path
) -> None:
    attachment: Any = Lora(LoraSpec(rank=2)).attach(mixture(family))
    for number, parameter in enumerate(attachment.parameters):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    trained = {n: p.detach().contiguous() for n, p in attachment.module.named_parameters() if p.requires_grad}
    attachment.module.peft_config["default"].save_pretrained(str(tmp_path / "peft"))
    save_file({on_disk(name): p for name, p in trained.items()}, tmp_path / "peft" / "adapter_model.safetensors")
    request: Any = SimpleNamespace(model=ModelSpec(name=str(folder)), run=SimpleNamespace(path="the run"))
    if not read:
        with pytest.raises(ValueError, match=r"the run has no PEFT form that PEFT reads \(.*\); use --to merged"):
            _refuse_unread(request, tmp_path / "peft", meta_model(request.model))
        return
    _refuse_unread(request, tmp_path / "peft", meta_model(request.model))
    loaded = PeftModel.from_pretrained(mixture(family), str(tmp_path / "peft"))  # type: ignore[arg-type]
    assert torch.equal(logits(loaded), logits(attachment.module))
