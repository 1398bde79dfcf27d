"""What one sweep needs of its model, its methods and its optimizer."""

import ctypes.util
import json
import shutil
from collections.abc import Iterator

import torch

from gallop_ray.methods import make_method
from gallop_ray.methods.hybrid import Hybrid
from gallop_ray.methods.peft import PeftMethod
from gallop_ray.preflight.findings import Finding, ok, problem, warning
from gallop_ray.preflight.hub_checks import on_hub
from gallop_ray.search.storage import database
from gallop_ray.sparse.base_state import Structure
from gallop_ray.spec.configuration import trainings, variants
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import hidden
from gallop_ray.training.engine import refuse_extra
from gallop_ray.training.model_checks import refuse_positions
from gallop_ray.training.models import hub_id, is_cached, meta_model, try_model
from gallop_ray.training.optimizers import goes_by_tensors, try_trainings
from gallop_ray.training.packing_check import packs, refuse_packing
from gallop_ray.training.presets import PRESETS, preset_folder


def model(sweep: Sweep) -> Iterator[Finding]:
    """Whether the base model is here, can be created, or can be downloaded."""
    name = sweep.model.name
    try:
        hub = hub_id(name)
    except ValueError as error:
        yield problem(str(error), "Correct model.name")
        return
    if hub is not None and not is_cached(sweep.model):
        yield on_hub(f"model {name}", hub, "model")
    elif name in PRESETS and not preset_folder(name).exists():
        yield ok(f"model {name}: is made here at its first use, about a minute")
    else:
        yield from _loads(sweep)
    if sweep.model.dtype == "bfloat16" and not sweep.resources.gpus_per_worker:
        yield warning("model.dtype bfloat16 on the CPU: few multiply it quickly", "Give float32")
    elif sweep.model.dtype == "bfloat16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        yield warning("model.dtype bfloat16 on a GPU that has to emulate it", "Give float32")


def _loads(sweep: Sweep) -> Iterator[Finding]:
    """Load the model as a run will, of a large one only the headers."""
    try:
        model, _ = try_model(sweep.model)
        refuse_positions(model, sweep)
        if packs(sweep) and model.device.type != "meta":
            refuse_packing(model)
    except ValueError as error:
        yield problem(str(error), "")
        return
    yield ok(f"model {sweep.model.name}: loads, {sum(p.numel() for p in model.parameters()):,} parameters")
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(known, int) and sweep.training.max_length > known:
        text = f"training.max_length is {sweep.training.max_length}, the model was trained on {known} positions"
        yield warning(f"{text}: it has not seen positions beyond", f"Give {known} or less")


def studies(sweep: Sweep) -> Iterator[Finding]:
    """Whether the database for the studies can be used."""
    if (url := sweep.search.storage) is not None:
        try:
            database(url)
        except ValueError as error:
            yield problem(str(error), "Correct search.storage, or leave it out for a file")
        else:
            yield ok(f"studies in {hidden(url)}")


def tuners(sweep: Sweep) -> Iterator[Finding]:
    """Whether PEFT accepts the model and the options, judged by shapes; the first slot tries it with weights."""
    methods = [make_method(each) for spec in sweep.methods for each in variants(sweep, spec, "target_modules")]
    named = [method for method in methods if isinstance(method, PeftMethod | Hybrid)]
    if not named:
        return
    try:
        model = meta_model(sweep.model)
    except Exception:  # what prevents loading is a finding of its own
        return
    structure = Structure(model)
    for method in named:
        spec = method.spec
        try:
            method.attach(model)
            yield ok(f"method {spec.name}: PEFT takes the model and the options")
        except ValueError as error:
            if "meta" not in str(error):  # some tuners read weights, which a model on the meta device lacks
                yield problem(f"method {spec.name}: {error}", "Change its options or target modules, or leave it out")
        except RuntimeError:
            pass
        finally:
            structure.restore()


def optimizer(sweep: Sweep) -> Iterator[Finding]:
    """Whether the optimizers and the schedules can be made and train what the methods train."""
    try:
        try_trainings(sweep)
    except ValueError as error:
        yield problem(str(error), "")
        return
    if sweep.deepspeed.zero_stage == 0 and sweep.model.dtype == "float32":
        return
    every = (training for spec in sweep.methods if spec.trains for training in trainings(sweep, spec))
    for name in dict.fromkeys(training.optimizer for training in every if goes_by_tensors(training)):
        text = (
            f"training.optimizer: {name} goes by whole tensors, and ZeRO gives it parts of one vector of all parameters"
        )
        yield warning(f"{text}: results depend on zero_stage and workers", "Name another, such as adamw")


def extra(sweep: Sweep) -> Iterator[Finding]:
    """Whether DeepSpeed accepts `deepspeed.extra`, and has what that needs."""
    if not sweep.deepspeed.extra:
        return
    try:
        refuse_extra(sweep.deepspeed, sweep.training, getattr(torch, sweep.model.dtype), 1)
        yield ok("deepspeed.extra: DeepSpeed takes it")
    except ValueError as error:
        yield problem(str(error), "Change it, or leave it out")
    # DeepSpeed compiles nothing for us, except for offloading to NVMe.
    if "nvme" not in json.dumps(sweep.deepspeed.extra):
        return
    lacking = [] if shutil.which("c++") or shutil.which("g++") else ["a C++ compiler"]
    lacking += [] if ctypes.util.find_library("aio") else ["libaio"]
    if lacking:
        fix = "Debian: apt-get install g++ libaio-dev"
        yield problem(f"offloading to NVMe compiles DeepSpeed's async_io, which needs {' and '.join(lacking)}", fix)
