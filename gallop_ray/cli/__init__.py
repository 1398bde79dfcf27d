"""The command line. Everything heavy is imported after the arguments have been parsed."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gallop_ray import __version__
from gallop_ray.cli.sweep_file import add_sweep_file_commands, run
from gallop_ray.cli.unexpected import NO_MISTAKE, told
from gallop_ray.cli.watched import FAILED, LastWord, watched
from gallop_ray.disk.trouble import described_trouble, is_storage_trouble
from gallop_ray.exports.merge_request import HOWS, checked_merge
from gallop_ray.exports.request import TARGETS, checked, checked_run, finished_run
from gallop_ray.spec.problems import SweepFileError

_USER_ERROR = 2


def main(arguments: Sequence[str] | None = None, watch: bool = False) -> int:
    """Run a command and return its exit code.

    watch: run a sweep in its own process, so that it ends with a sentence and the right code in any case.

    0: done, or stopped on request; 1: runs failed, or an unexpected error; 2: the user has to change something; 130,
    143: ended by SIGINT, SIGTERM.
    """
    parsed = make_parser().parse_args(arguments)
    return watched(partial(_ended, parsed)) if watch and parsed.sweeps else _ended(parsed)


def _ended(parsed: argparse.Namespace, word: LastWord | None = None) -> int:
    """Run the command. word: shared with the watching process, if there is one."""
    parsed.word = word
    try:
        code: int = parsed.command(parsed)
    except SweepFileError as error:
        print(error, file=sys.stderr)
        return _USER_ERROR
    except BrokenPipeError:  # the reader has closed the pipe, which __main__ handles
        raise
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich makes it the exit code 1
            raise error.__context__ from None
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_storage_trouble(error):
            print(f"gallop-ray: {described_trouble(error)}", file=sys.stderr)
            return _USER_ERROR
        # A ValueError says what the user can change. Anything else that gets this far is a bug.
        mistake = isinstance(error, ValueError) and not isinstance(error, NO_MISTAKE)
        print(f"gallop-ray: {error if mistake else told(error)}", file=sys.stderr)
        return _USER_ERROR if mistake else FAILED
    return code


def make_parser() -> argparse.ArgumentParser:
    """The parser; each subparser sets `command`, a function of the parsed arguments that returns the exit code."""
    parser = argparse.ArgumentParser(prog="gallop-ray", description="Distributed sweeps of sparse fine-tuning.")
    parser.set_defaults(sweeps=False)
    parser.add_argument("--version", action="version", version=f"gallop_ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_sweep_file_commands(commands)
    _add_folder_commands(commands)
    _add_export(commands)
    _add_merge(commands)
    _add_generate(commands)
    _add_compare(commands)
    text = "the sweeps of a folder, and how each stands"
    listed = commands.add_parser("list", help=text, description=text)
    listed.add_argument("output", nargs="?", default="runs", help="the folder of sweeps (default: runs)")
    listed.set_defaults(command=_list)
    text = "open the MLflow UI on what was logged"
    ui = commands.add_parser("ui", help=text, description=text)
    ui.add_argument("--output", default="runs", help="the folder of sweeps, or of one sweep (default: runs)")
    ui.add_argument("--uri", help="another MLflow store")
    shown = "the MLflow experiment to show (default: that of the sweep, gallop_ray for a folder of sweeps)"
    ui.add_argument("--experiment", help=shown)
    ui.add_argument("--port", type=int, default=5000, help="where to serve it")
    ui.add_argument("--no-browser", action="store_true", help="only print the address")
    ui.set_defaults(command=_ui)
    return parser


def _add_folder_commands(commands: Any) -> None:
    """The commands about a sweep that has been started."""

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        sub.add_argument("sweep", metavar="DIR", help="the folder of a sweep, <output>/<sweep name>")
        sub.set_defaults(command=command)
        return sub

    resume = add("resume", _resume, "resume a sweep, or end its pause; first shows what is finished")
    resume.set_defaults(sweeps=True)
    resume.add_argument("--verbose", action="store_true", help="also show the output of Ray and DeepSpeed")
    status = add("status", _status, "the status of a sweep, active or not")
    status.add_argument("--json", action="store_true", help="as one JSON object; with --follow one per line")
    status.add_argument("--follow", action="store_true", help="repeat until the sweep's process ends")
    add("pause", _pause, "finish the active runs and start no others; slots stay warm")
    stop = add("stop", _stop, "finish the active runs and stop; `resume` continues")
    stop.add_argument("--now", action="store_true", help="end at once; checkpoints are kept")
    retry = add("retry", _retry, "queue failed and diverged runs for the next `run` or `resume`")
    retry.add_argument("--failed", action="store_true", help="all that failed or diverged")
    retry.add_argument("runs", nargs="*", metavar="RUN", help="<configuration> or <configuration>/seed-<n>")
    best = add("best", _best, "the best configuration: its metrics, settings and adapter")
    form = best.add_mutually_exclusive_group()
    form.add_argument("--all", action="store_true", help="the best of each method")
    form.add_argument("--yaml", action="store_true", help="a whole sweep file that runs it again, without a search")
    report = add("report", _report, "write the report: one HTML page, figures and tables; at any time of a sweep")
    report.add_argument("--output", metavar="PATH", help="the page to write (default: DIR/report/report.html)")
    report.add_argument("--open", action="store_true", help="show it in the browser")


def _add_export(commands: Any) -> None:
    text = "write a finished run's adapter in a form that other tools load"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("run", metavar="RUN", help="the run folder, <output>/<sweep>/<configuration>/seed-<n>")
    export.add_argument(
        "--to",
        required=True,
        choices=TARGETS,
        help="delta: our own adapter file, for gallop_ray.apply_adapter; peft: a folder for PEFT (SHiRA, or LoRA's "
        "own); lora: a LoRA adapter that approximates the change; merged: a plain transformers folder",
    )
    export.add_argument("--rank", type=int, help="of --to lora (default: 16)")
    export.add_argument(
        "--output", metavar="PATH", help="the folder to write (default: <configuration>-seed-<n>-<to> here)"
    )
    export.set_defaults(command=_export)


def _add_merge(commands: Any) -> None:
    text = "put the sparse adapters of several runs on one base model into one"
    merge = commands.add_parser("merge", help=text, description=text)
    merge.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or adapter files of `merge` or `export`")
    merge.add_argument(
        "--how",
        choices=HOWS,
        default="sum",
        help="sum: the deltas add up; ties: where they disagree in sign, the mean of the stronger side; dare: the sum "
        "of a random share of each, scaled up (default: sum)",
    )
    merge.add_argument(
        "--keep", type=float, help="share of each adapter's entries, for ties the largest (default: 1), for dare 0.5"
    )
    merge.add_argument("--seed", type=int, default=0, help="of dare's choice (default: 0)")
    merge.add_argument("--to", choices=("delta", "merged"), default="delta", help="as for export (default: delta)")
    merge.add_argument("--output", metavar="PATH", default="merged", help="the folder to write (default: merged)")
    merge.set_defaults(command=_merge)


def _add_generate(commands: Any) -> None:
    text = "what a finished run's model says to a prompt, and what the base model says"
    generate = commands.add_parser("generate", help=text, description=f"{text}; without one, prompts are read by line")
    generate.add_argument("run", metavar="RUN", help="the run folder, <output>/<sweep>/<configuration>/seed-<n>")
    generate.add_argument("--prompt", action="append", default=[], help="an instruction; may be given several times")
    generate.add_argument("--file", help="a file of prompts, one per line; .jsonl: objects with instruction and input")
    generate.add_argument("--max-new-tokens", type=int, metavar="N", help="at most this many tokens per answer")
    generate.set_defaults(command=_generate)


def _add_compare(commands: Any) -> None:
    text = "how two finished runs differ: metrics, answers that one alone has right, and what each said"
    compare = commands.add_parser("compare", help=text, description=text)
    for name in ("first", "second"):
        compare.add_argument(name, metavar="RUN", help="a run folder, <output>/<sweep>/<configuration>/seed-<n>")
    compare.add_argument("--examples", type=int, default=5, metavar="N", help="answers to show (default: 5)")
    compare.set_defaults(command=_compare)


def _resume(arguments: argparse.Namespace) -> int:
    from gallop_ray.records.stored import open_sweep
    from gallop_ray.sweep.commands import resume_paused

    if said := resume_paused(arguments.sweep):
        print(said)
        return 0
    return run(open_sweep(arguments.sweep).whole(), arguments)


def _status(arguments: argparse.Namespace) -> int:
    from gallop_ray.reporting.status import print_status

    with suppress(KeyboardInterrupt):  # the way to leave --follow
        print_status(arguments.sweep, arguments.json, arguments.follow)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from gallop_ray.reporting.sweeps import print_sweeps

    print_sweeps(arguments.output)
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    from gallop_ray.sweep.commands import pause

    print(pause(arguments.sweep))
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from gallop_ray.sweep.commands import stop

    print(stop(arguments.sweep, arguments.now))
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    from gallop_ray.sweep.commands import retry

    print(retry(arguments.sweep, arguments.failed, arguments.runs))
    return 0


def _best(arguments: argparse.Namespace) -> int:
    from gallop_ray.reporting.best import print_best

    print_best(arguments.sweep, arguments.all, arguments.yaml)
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    checked_run(arguments.run)  # before torch is imported
    from gallop_ray.exports.generate import print_answers

    with suppress(KeyboardInterrupt):
        print_answers(arguments.run, arguments.prompt, arguments.file, arguments.max_new_tokens)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.examples < 0:
        raise ValueError(f"--examples {arguments.examples} is not allowed; must be 0 or more")
    first, second = (finished_run(run) for run in (arguments.first, arguments.second))
    from gallop_ray.reporting.compare import print_comparison

    print_comparison(first, second, arguments.examples)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from gallop_ray.records.stored import open_sweep
    from gallop_ray.sweep.report import report

    stored = open_sweep(arguments.sweep)
    path = report(stored.folder, stored.sweep, arguments.output)
    print(path)
    if arguments.open:
        import webbrowser

        webbrowser.open(path.as_uri())
    return 0


def _export(arguments: argparse.Namespace) -> int:
    request = checked(arguments.run, arguments.to, arguments.output, arguments.rank)
    from gallop_ray.exports.write import export

    print(export(request))
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    request = checked_merge(
        arguments.runs, arguments.how, arguments.keep, arguments.seed, arguments.to, arguments.output
    )
    from gallop_ray.exports.merge import merge

    print(merge(request))
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from gallop_ray.mlflow_mirror.ui import open_ui, stored_at

    uri, experiment = stored_at(arguments.output)
    experiment = arguments.experiment or experiment
    return open_ui(arguments.uri or uri, arguments.port, not arguments.no_browser, experiment)
