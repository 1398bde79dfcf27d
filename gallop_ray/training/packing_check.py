"""Whether a model keeps examples apart that share a row: tried before a run, with its own weights."""

from typing import Any

import torch
from torch import Tensor

from gallop_ray.spec.configuration import tried_values
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded
from gallop_ray.tasks.packing import Packed, collate_packed
from gallop_ray.training.model_checks import embeddings, first_line

_FIX = "set training.packing to false for it"
_EXACT = {torch.float32: 1e-4, torch.float64: 1e-4}
_COARSE = 3e-2  # 16 bits: what another shape makes of logits
_ONE, _OTHER, _THIRD = [5, 9, 3, 8, 4, 7, 6], [4, 6, 9, 3, 5], [8, 3, 7, 6, 9]


def packs(sweep: Sweep) -> bool:
    """Whether some configuration of a sweep packs."""
    return any(True in tried_values(sweep, method, "training.packing") for method in sweep.methods)


def refuse_packing(model: Any) -> None:
    """Raises ValueError where an example's logits change with what stands before it in its row.

    So it is with recurrent states (Mamba), and with models that make masks or positions of their own. To be called
    before ZeRO-3 splits the weights.
    """
    try:
        with torch.no_grad():
            alone = _logits(model, ((_ONE,),))
            behind, behind_another = (
                _logits(model, ((_OTHER, _ONE), (_ONE,))),
                _logits(model, ((_THIRD, _ONE), (_ONE,))),
            )
    except Exception as error:  # of whatever class the model's own code raises
        raise ValueError(f"training.packing cannot be tried with this model ({first_line(error)}); {_FIX}") from error
    spread = (alone - alone.mean()).norm()
    # Of 16 bits an equal shape gives equal bits: what differs between two neighbours has leaked.
    leaked = (behind - behind_another).norm() > 1e-5 * spread
    if bool(leaked) or bool((behind - alone).norm() > _EXACT.get(model.dtype, _COARSE) * spread):
        raise ValueError(f"training.packing: this model does not keep examples apart that share a row; {_FIX}")


def _logits(model: Any, rows: tuple[tuple[list[int], ...], ...]) -> Tensor:
    """The logits at the last example of the first row, (tokens, V) float64."""
    size = embeddings(model)
    made = tuple(tuple(Encoded([t % size for t in ids], [t % size for t in ids]) for ids in row) for row in rows)
    inputs = collate_packed(Packed(made), 0)
    del inputs["labels"]
    owners = inputs.pop("owners")
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits[0][(owners[0] == len(rows[0]) - 1).to(model.device)].double()
