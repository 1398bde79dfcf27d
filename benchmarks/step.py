"""One optimizer step of sparse fine-tuning, against PEFT's adapters and full fine-tuning."""

from typing import Any

from benchmarks.arms import Arm, take_turns, training_arm
from benchmarks.models import Setting, setting
from benchmarks.ours import sparse
from benchmarks.peers import adapter, full, weight_gradients
from benchmarks.report import row

DENSITIES = (0.01, 0.001)
PEERS: dict[str, tuple[str, bool]] = {
    "LoRA r8": ("lora", True),
    "LoRA r8 without float32 masters": ("lora", False),
    "DoRA r8": ("dora", True),
    "SHiRA r8": ("shira", True),
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each density and each peer."""
    shared = setting(quick)
    found = take_turns(_arms(shared), quick)
    share = found.pop("dW").seconds
    rows = []
    for density in DENSITIES:
        ours = found[f"density {density}"]
        for peer in (*PEERS, "full fine-tuning"):
            label = {**shared.label, "density": density, "weight_gradient_share": round(share / ours.seconds, 4)}
            rows.append(row(ours, peer, found[peer], **label))
    return rows


def _arms(shared: Setting) -> dict[str, Arm]:
    arms = {f"density {density}": training_arm(sparse, shared, density) for density in DENSITIES}
    arms |= {name: training_arm(adapter, shared, *how) for name, how in PEERS.items()}
    return arms | {"full fine-tuning": training_arm(full, shared), "dW": training_arm(weight_gradients, shared)}
