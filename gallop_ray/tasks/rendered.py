"""An example as a model sees it, with the tokens that it learns from marked."""

from itertools import groupby
from typing import Any

from gallop_ray.tasks.encode import IGNORED, Encoded

LEARNT = ("\u27e6", "\u27e7")
"""The brackets around what the loss is of."""
_MOST = 1200  # characters, of which the middle is left out


def rendered(encoded: Encoded, tokenizer: Any) -> str:
    """The text of an example's tokens in one line, with line breaks written as \\n and what is learnt in brackets."""
    pairs = zip(encoded.input_ids, encoded.labels, strict=True)
    parts = []
    for learnt, group in groupby(pairs, key=lambda pair: pair[1] != IGNORED):
        text = str(tokenizer.decode([token for token, _ in group])).replace("\\", "\\\\").replace("\n", "\\n")
        parts.append(f"{LEARNT[0]}{text}{LEARNT[1]}" if learnt else text)
    whole = "".join(parts)
    return whole if len(whole) <= _MOST else f"{whole[: _MOST // 2]} [...] {whole[-_MOST // 2 :]}"
