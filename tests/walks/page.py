"""A page of the documentation as its reader follows it: block after block, command after command."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gallop_ray.analysis.edges import MARK

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"```(\w*)$")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(\.\d+)?(e-?\d+)?")
_RUN = re.compile(r"(?P<sweep>\S+)/(?P<method>[a-z_]+)-[0-9a-f]{8}/seed-\d")
_NOT_HERE = ("git ", "make ", "pip ", "source ")  # the installation, which whoever runs this has behind them
_TO_A_RUNNING_SWEEP = ("gallop-ray pause", "gallop-ray stop")
_SERVERS = ("gallop-ray ui", "mlflow server")


@dataclass(frozen=True)
class Block:
    """A block of a page; `kind` is the fence's word, "sh" for an indented block and "" for what is printed."""

    kind: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """Its commands, each on one line and without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (each.partition(" # ")[0].strip() for each in lines) if line]


def read_page(page: str) -> list[Block]:
    """The blocks of a page (a path below the repository), in order."""
    blocks: list[Block] = []
    kind: str | None = None
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and kind in (None, "sh"):
            kind = fence[1]
            blocks.append(Block(kind, "", number))
        elif line == "```" or (kind == "sh" and line and not line.startswith("    ")):
            kind = None
        elif kind is None and line.startswith("    "):
            kind = "sh"
            blocks.append(Block(kind, line[4:] + "\n", number))
        elif kind is not None:
            blocks[-1] = Block(kind, blocks[-1].text + (line[4:] if kind == "sh" else line) + "\n", blocks[-1].line)
    return blocks


class Reader:
    """Someone who types what a page says, in a folder of their own.

    instead: texts of the page by what is typed in their place, for paths that only an example has, and to make runs
    short. Keys of configurations (`gallop-1a2b3c4d`) become those of the sweep at hand.
    file: the sweep file that YAML blocks are about. A block with a name shows what must be in it, another is put there.
    """

    def __init__(self, home: Path, instead: dict[str, str], file: str | None = None) -> None:
        self.home = home
        self.instead = instead
        self.file = file
        self.servers: list[subprocess.Popen[str]] = []
        self.env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "BROWSER": "true",  # opens nothing
            "COLUMNS": "120",
        }

    def follow(self, page: str) -> None:
        """Run every command and every Python block; what is shown after a command must have been printed by it."""
        printed = ""
        try:
            for block in read_page(page):
                at = f"{page}, line {block.line}"
                if block.kind == "sh":
                    printed = "\n".join(self.type(each, at) for each in block.commands if _here(each))
                elif block.kind == "python":
                    self.run_python(block.text, at)
                elif block.kind == "yaml" and self.file is not None:
                    self.write(yaml.safe_load(block.text), at)
                elif block.kind == "":
                    assert missing(block.text, printed) == [], f"{at}: not printed:\n{printed}"
        finally:
            self.close()

    def type(self, command: str, at: str) -> str:
        """What a command prints. Its exit code must be 0."""
        command = self.replaced(command)
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.env[name] = value
            return ""
        if command.startswith(_SERVERS):
            return self.serve(command, at)
        done = subprocess.run(
            shlex.split(command), cwd=self.home, env=self.env, capture_output=True, text=True, timeout=900
        )
        said = done.stdout + done.stderr
        idle = command.startswith(_TO_A_RUNNING_SWEEP) and "is not running" in said
        assert done.returncode == 0 or idle, f"{at}: {command} ended with {done.returncode}:\n{said}"
        return said

    def write(self, fields: dict[str, Any], at: str) -> None:
        """Look for fields in the sweep file, or put them there."""
        path = self.home / str(self.file)
        document = yaml.safe_load(path.read_text())
        if "name" in fields:
            assert {key: document.get(key) for key in fields} == fields, f"{at}: {path.name} is another one"
        path.write_text(yaml.safe_dump({**document, **fields}, sort_keys=False))

    def run_python(self, text: str, at: str) -> None:
        """Run a block, with a model and batches at hand."""
        start = "import torch, transformers\nmodel = transformers.AutoModelForCausalLM.from_pretrained('my_model')\n"
        start += "batches = [{'input_ids': torch.ones(2, 4, dtype=int), 'labels': torch.ones(2, 4, dtype=int)}] * 2\n"
        program = start + self.replaced(text)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=self.home, env=self.env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{at}: {program}\n{done.stderr}"

    def serve(self, command: str, at: str) -> str:
        """Start a server in the place of the last one, and wait until it names its address."""
        self.close()
        log = self.home / "server.log"
        with log.open("w") as file:
            server = subprocess.Popen(shlex.split(command), cwd=self.home, env=self.env, stdout=file, stderr=file)
        self.servers.append(server)
        until = time.monotonic() + 120
        while "http://" not in log.read_text():
            assert server.poll() is None, f"{at}: {command}:\n{log.read_text()}"
            assert time.monotonic() < until, f"{at}: {command}:\n{log.read_text()}"
            time.sleep(0.2)
        return log.read_text()

    def close(self) -> None:
        """End the servers as Ctrl-C does."""
        for server in self.servers:
            server.send_signal(signal.SIGINT)
            server.wait(60)
        self.servers.clear()

    def replaced(self, text: str) -> str:
        """What is typed where the page shows `text`."""
        for old, new in self.instead.items():
            text = text.replace(old, new)
        self.named: set[Path] = set()
        return _RUN.sub(self._run_of, text)

    def _run_of(self, found: re.Match[str]) -> str:
        """A run of the method that the sweep at hand has: another one each time that a command names one."""
        sweep = found["sweep"].lstrip("\"'")
        runs = sorted((self.home / sweep).glob(f"{found['method']}-*/seed-*"))
        run = next(each for each in runs if each not in self.named)
        self.named.add(run)
        return found["sweep"].removesuffix(sweep) + str(run.relative_to(self.home))


def _here(command: str) -> bool:
    return not command.startswith(_NOT_HERE)


def missing(shown: str, printed: str) -> list[str]:
    """The lines of an example that were not printed, numbers, keys, marks of edges and the widths of columns apart."""
    have = {_shape(line) for line in printed.splitlines()}
    return [line for line in shown.splitlines() if _shape(line) not in have]


def _shape(line: str) -> str:
    line = re.sub(r"\b[0-9a-f]{8}\b", "KEY", line)
    line = re.sub(rf"(?<=\w){re.escape(MARK)}(?= )", "", line)  # short runs are best at other rates
    return " ".join(re.sub(r"[─━-]{3,}", "─", _NUMBER.sub("#", line)).split())
