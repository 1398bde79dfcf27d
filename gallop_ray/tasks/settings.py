"""How models are evaluated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    At most max_new_tokens are generated for an example with options, max_reasoning_tokens for one without; less where
    one of the texts of `stop` comes, which is left out. decided: generation for an example with options also ends where
    nothing that follows can change which of them is read.
    """

    prompt: str
    max_length: int
    batch_size: int
    max_new_tokens: int = 16
    max_reasoning_tokens: int = 256
    stop: tuple[str, ...] = ()
    decided: bool = False
