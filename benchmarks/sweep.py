"""Twelve configurations from start to end: by ours, by a plain script, and by plain Tune."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import Measured
from benchmarks.models import Setting, base_model, setting
from benchmarks.report import row
from benchmarks.sweeps import Ran, run_ours, run_rival
from gallop_ray.analysis.timing import slot_times
from gallop_ray.training.models import model_source
from gallop_ray.training.pocket import pocket_tokenizer
from gallop_ray.training.save import save_model

STEPS, EVALUATED, PER_METHOD = 8, 64, 6
QUICK_STEPS, QUICK_EVALUATED, QUICK_PER_METHOD = 2, 8, 1
SPENT_WELL = ("scoring", "training", "evaluating")
PHASES = (*SPENT_WELL, "selecting", "attaching", "saving")
RIVALS = {
    "HF Trainer and PEFT, one by one": "benchmarks.plain_script",
    "Tune, a TorchTrainer per trial": "benchmarks.tune_trials",
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each rival."""
    shared = setting(quick)
    steps, evaluated, per_method = (
        (QUICK_STEPS, QUICK_EVALUATED, QUICK_PER_METHOD) if quick else (STEPS, EVALUATED, PER_METHOD)
    )
    label = {**shared.label, "configurations": 2 * per_method, "steps": steps, "evaluated": evaluated}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(
            folder / "data", {"train": steps * shared.sequences, "validation": evaluated // 2, "test": evaluated // 2}
        )
        model = model_source(shared.model) if shared.pretrained else random_weights(shared, folder / "model")
        ours = run_ours(folder, document(shared, model, str(folder / "data"), steps, per_method))
        found = {name: run_rival(folder, module, ours) for name, module in RIVALS.items()}
        rows = [row(_measured(ours), name, _measured(ran), **label) for name, ran in found.items()]
    for made in rows:
        print(f"{made['against']}: share {made['share']:.3f} / {made['other_share']:.3f}", flush=True)
    return rows


def document(shared: Setting, model: str, data: str, steps: int, per_method: int) -> dict[str, Any]:
    """The sweep file, without what belongs to the machine."""
    size = {"batch_size": shared.sequences, "micro_batch_size": shared.sequences, "max_length": shared.length}
    return {
        "name": "sweep",
        "model": {"name": model, "dtype": shared.dtype},
        "data": {"root": data, "train": "words"},
        "methods": [{"type": "gallop", "selection_ratio": 0.25}, {"type": "lora"}],
        "objective": {"metric": "val_id_accuracy"},
        "search": {
            "sampler": "random",
            "space": {
                "gallop.density": {"choice": [{"lora_rank": 4}, {"lora_rank": 8}, {"lora_rank": 16}]},
                "lora.rank": {"choice": [4, 8, 16]},
                "training.learning_rate": {"choice": [1e-4, 1e-3]},
            },
        },
        "budget": {"configurations": per_method},
        "training": {"steps": steps, **size},
        "evaluation": {"generate": False},
        "resources": {"cpus_per_worker": torch.get_num_threads()},
    }


def write_data(folder: Path, sizes: dict[str, int]) -> None:
    """Examples so long that every one is cut to the same number of tokens, with answers of one token."""
    folder.mkdir()
    draw = random.Random(0)
    for split, size in sizes.items():
        lines = [json.dumps(_example(draw)) for _ in range(size)]
        (folder / f"words.{split}.jsonl").write_text("\n".join(lines) + "\n")


def _example(draw: random.Random) -> dict[str, str]:
    words = " ".join(draw.choices(("red", "blue", "green", "small", "large", "house", "tree", "river"), k=200))
    answer = draw.choice("ab")
    return {"instruction": f"{words}\nAnswer format: a/b", "input": "", "output": answer, "answer": answer}


def random_weights(shared: Setting, folder: Path) -> str:
    """Save a model of the shape asked for, with the pocket tokenizer; the folder."""
    folder.mkdir()
    model = base_model(shared).cpu()
    model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id = 0, 1, None
    save_model(model, folder)
    pocket_tokenizer().save_pretrained(folder)
    return str(folder)


def _measured(ran: Ran) -> Measured:
    """The whole time; of the runs' time, from the first one's start, what was spent on each phase."""
    (slot,) = slot_times(ran.folder).values()
    results = ran.folder.results()
    spent = {name: sum(result.seconds.get(name) or 0.0 for result in results) for name in PHASES}
    share = sum(spent[name] for name in SPENT_WELL) / slot.wall
    return Measured(ran.seconds, ran.bytes, {"share": share, "runs_seconds": slot.wall, **spent})
