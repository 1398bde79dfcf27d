"""Masks need torch and nothing of what a sweep needs beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

OTHERS = ("accelerate", "datasets", "deepspeed", "mlflow", "optuna", "peft", "ray", "transformers")

HIDE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_others(name, *where):
    return None if name.partition(".")[0] in {hidden!r} else find(name, *where)

PathFinder.find_spec = staticmethod(find_others)
"""

MODEL = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(vocab_size=96, **sizes))
base = {n: w.clone() for n, w in model.state_dict().items()}
data = [{"input_ids": row, "labels": row} for row in torch.randint(1, 96, (24, 12))]
batches = torch.utils.data.DataLoader(data[:8], batch_size=4)
"""

PLAIN = """
from gallop_ray.sparse import EntryAdamW, GallopSpec, LiftSpec, SpielSpec, attach

for spec in (GallopSpec(density=0.05), LiftSpec(density=0.05, rank=4, refresh_every=2), SpielSpec(accumulate=1)):
    adapter = attach(model, spec, batches)
    optimizer = EntryAdamW(adapter.parameters(), lr=1e-2)
    if spec.refreshes:
        adapter.refresh_with(optimizer, steps=6)
    losses = []
    for _ in range(6):
        batch = torch.utils.data.default_collate(data)
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    adapter.save("adapter.safetensors")
    adapter.detach()
    assert all(torch.equal(w, base[n]) for n, w in model.state_dict().items())
"""

TRAINER = """
from transformers import Trainer, TrainingArguments

from gallop_ray.sparse import EntryAdamW, GallopSpec, LiftSpec, RefreshCallback, SparseAdapter, SpielSpec, attach

options = dict(per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True)
lengths = dict(max_steps=9, logging_steps=3, save_strategy="steps", save_steps=6)
for spec in (GallopSpec(density=0.05), LiftSpec(density=0.05, rank=4, refresh_every=2), SpielSpec(accumulate=1)):
    adapter = attach(model, spec, batches)
    ages = (EntryAdamW(adapter.parameters(), lr=1e-2), None) if spec.entry_ages else (None, None)
    fresh = [RefreshCallback(adapter)] if spec.refreshes else []
    arguments = TrainingArguments(output_dir=spec.type, optim="adamw_torch_fused", **options, **lengths)
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=ages, callbacks=fresh)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0], losses
    trainer.save_model("whole")
    whole = LlamaForCausalLM.from_pretrained("whole").state_dict()
    assert whole.keys() == base.keys()
    changed = {n: (whole[n] != base[n]).view(-1).nonzero().view(-1).tolist() for n in base}
    if spec.type == "gallop":
        entries = {f"{n}.weight": i.tolist() for n, i in adapter.mask.indices.items()}
        assert {n: c for n, c in changed.items() if c} == entries
        adapter.save("gallop.safetensors")
        straight = {n: w.clone() for n, w in model.state_dict().items()}
    adapter.detach()
    assert all(torch.equal(w, base[n]) for n, w in model.state_dict().items())

SparseAdapter.load(model, "gallop.safetensors").detach()
adapter = attach(model, GallopSpec(density=0.05), batches)  # a run that was interrupted after its sixth step
arguments = TrainingArguments(output_dir="gallop", optim="adamw_torch_fused", **options, **lengths)
Trainer(model, arguments, train_dataset=data).train(resume_from_checkpoint="gallop/checkpoint-6")
assert all(torch.allclose(w, straight[n], atol=1e-6) for n, w in model.state_dict().items())
"""

ACCELERATE = """
from accelerate import Accelerator

from gallop_ray.sparse import GallopSpec, LiftSpec, attach

for spec in (GallopSpec(density=0.05), LiftSpec(density=0.05, rank=4, refresh_every=2)):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    adapter = attach(model, spec, batches)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, torch.utils.data.DataLoader(data, batch_size=4))
    if spec.refreshes:
        adapter.refresh_with(optimizer, steps=6)
    first, losses = adapter.mask.indices, []
    for batch in [*loader, *loader]:
        with accelerator.accumulate(wrapped):
            losses.append(wrapped(**batch).loss)
            accelerator.backward(losses[-1])
            optimizer.step()
            optimizer.zero_grad()
    assert sum(losses[6:]) < sum(losses[:6])
    same = all(torch.equal(i, first[n]) for n, i in adapter.mask.indices.items())
    assert same != spec.refreshes
    adapter.detach()
    assert all(torch.equal(w, base[n]) for n, w in model.state_dict().items())
"""


@pytest.mark.parametrize("module", ["gallop_ray.sparse", "gallop_ray.methods", "gallop_ray.library.adapter"])
def test_importing_it_imports_none_of_the_others(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules.keys() & {set(OTHERS)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        (PLAIN, "transformers"),
        (TRAINER, "transformers accelerate"),
        pytest.param(ACCELERATE, "transformers accelerate", marks=pytest.mark.long),
    ],
    ids=["plain", "trainer", "accelerate"],
)
def test_the_others_may_be_missing(tmp_path: Path, program: str, needed: str) -> None:
    hidden = HIDE.format(hidden=set(OTHERS) - set(needed.split()))
    seen = f"import sys; assert not sys.modules.keys() & {set(OTHERS) - set(needed.split())!r}"
    whole = [sys.executable, "-c", "\n".join([hidden, MODEL, program, seen])]
    done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
