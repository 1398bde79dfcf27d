"""Generates docs/reference/tuners.md: what a sweep can do with each tuner of PEFT."""

from gallop_ray.spec.peft_tuners import BESIDE, REFUSED, REFUSED_INITS, REFUSED_OPTIONS, WHOLE, WORKING

_HEAD = """\
# PEFT's tuners

Made from the code by `make pages`: every type of the PEFT that gallop_ray is tested with (0.21). To use one, write
`{type: peft, tuner: NAME}` into `methods`; [methods.md](../methods.md) says more. One that works trains, in the tests,
only its own parameters, by the loss of the answers and by its own where it has one, learns, resumes and repeats bit for
bit, and leaves the base model's bytes as they were.

| tuner | works | at ZeRO stage 3 | beside a mask | why not |
|---|---|---|---|---|
"""
_OF_OPTIONS = """
## Options

Refused with every tuner, by `validate`:

| option | why |
|---|---|
"""


def tuners_markdown() -> str:
    """The whole page."""
    rows = "".join(map(_row, sorted({*WORKING, *REFUSED})))
    options = {f"`{name}`": why for name, why in REFUSED_OPTIONS.items()}
    options |= {f"`init_lora_weights: {name}`": why for name, why in REFUSED_INITS.items()}
    options["`bias`, unless none"] = "trains biases of the base model, which its adapter would not tell"
    return _HEAD + rows + _OF_OPTIONS + "".join(f"| {name} | {why} |\n" for name, why in sorted(options.items()))


def _row(name: str) -> str:
    if name in REFUSED:
        return f"| {name} | no | | | {REFUSED[name]} |\n"
    split = f"no: {WHOLE[name]}" if name in WHOLE else "yes"
    return f"| {name} | yes | {split} | {'yes' if name in BESIDE else 'no'} | |\n"


if __name__ == "__main__":
    print(tuners_markdown(), end="")
