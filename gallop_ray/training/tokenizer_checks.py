"""What a tokenizer must have, and what it puts around every text by itself."""

from typing import Any

_PROBES = ("a", "the", "1", "?")  # a tokenizer that has no token for any of them is not looked at


def fit_tokenizer(rows: int, tokenizer: Any) -> None:
    """Give the tokenizer a padding token, and a beginning token where it writes one without saying so.

    rows: how many embeddings the model has. Padding is masked wherever it stands, so the end token will do. Raises
    ValueError for a tokenizer without an end token that the model has an embedding for, and for one that ends every
    text with another.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token; set eos_token in its folder")
    if tokenizer.eos_token_id >= rows:
        raise ValueError(
            f"the tokenizer's end token {tokenizer.eos_token} has id {tokenizer.eos_token_id}, the model has {rows} "
            "embeddings; take the tokenizer of this model, or resize the embeddings and save both"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token
    before, after = added_tokens(tokenizer)
    if after not in ([], [tokenizer.eos_token_id]):
        # A prompt would hold it before its answer, where the model has only ever seen a text's end.
        raise ValueError(
            f"the tokenizer ends every text with {' '.join(tokenizer.convert_ids_to_tokens(after))}, but its end token "
            f"is {tokenizer.eos_token}; set eos_token in its folder to what ends a text, or take the other out of its "
            "post-processor"
        )
    if len(before) == 1 and tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(before)[0]


def added_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind every text; nothing where that cannot be told."""
    for text in _PROBES:
        plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole: list[int] = tokenizer(text)["input_ids"]
        for start in range(len(whole) - len(plain) + 1) if plain else ():
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
    return [], []
