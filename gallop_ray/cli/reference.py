"""Generates docs/reference/commands.md from the parser: `python -m gallop_ray.cli.reference`."""

import argparse
from collections.abc import Iterator

from gallop_ray.cli import make_parser

_HEAD = """\
# Commands

Made from the code by `make pages`. Every command has `--help`. Exit codes: 0 done, or stopped as asked; 1 runs failed,
`doctor` found a problem, or something unexpected happened (one line, which names the file with the trace); 2 the user
has to change something, a node of the cluster that lacks what all need included; 130 and 143 ended by Ctrl-C and
SIGTERM.
"""


def commands_markdown() -> str:
    """The whole page: one section per command, one row per argument."""
    (commands,) = [each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction)]
    parts = [_HEAD]
    for name, parser in commands.choices.items():
        parts += [f"## gallop-ray {name}\n", f"{_capitalized(parser.description or '')}.\n", *_arguments(parser)]
    return "\n".join(parts)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    if not actions:
        return
    yield "| argument | |\n|---|---|"
    for each in actions:
        yield f"| `{_form(each)}` | {(each.help or '').replace('<', '&lt;')}{_default(each)} |"
    yield ""


def _form(action: argparse.Action) -> str:
    """An argument's form: `--set PATH=VALUE`, `DIR`, `RUN ...`."""
    choices = ",".join(map(str, action.choices)) if action.choices else None
    value = str(action.metavar or choices or (action.dest.upper() if action.nargs != 0 else ""))
    more = " ..." if action.nargs in ("*", "+") else ""
    if not action.option_strings:
        return value + more
    return f"{action.option_strings[-1]} {value}{more}".strip()


def _default(action: argparse.Action) -> str:
    told = "default" in (action.help or "")
    plain = action.nargs != 0 and isinstance(action.default, str | int | float) and action.option_strings
    return f" (default: {action.default})" if plain and not told else ""


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    print(commands_markdown(), end="")
