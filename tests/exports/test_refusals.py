"""What cannot be exported is refused by the command, with what to do instead and nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import gallop_ray
from gallop_ray.cli import main
from gallop_ray.disk.tensors import metadata_of
from gallop_ray.sparse.adapter import load_adapter, save_adapter
from tests.exports.trained import Trained

ROOT = Path(__file__).parents[2]


def refused(run: Path, to: str, output: Path) -> str:
    """What the command says on stderr, with exit code 2 and no trace."""
    command = [sys.executable, "-m", "gallop_ray", "export", str(run), "--to", to, "--output", str(output)]
    before = sorted(output.parent.rglob("*"))
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert sorted(output.parent.rglob("*")) == before, "nothing is written"
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """The float32 sweep, to be spoilt."""
    return Path(shutil.copytree(trained.output / "float32", tmp_path / "sweep"))


@pytest.mark.parametrize(
    ("method", "to", "instead"),
    [
        ("full", "delta", "trained every weight, which is not an adapter; use --to merged"),
        ("full", "peft", "trained every weight, which is not an adapter; use --to merged"),
        ("lora", "delta", "use --to peft or --to merged"),
    ],
)
def test_a_form_that_the_adapter_does_not_have(
    trained: Trained, tmp_path: Path, method: str, to: str, instead: str
) -> None:
    assert instead in refused(trained.run(method).path, to, tmp_path / "out")


def test_a_run_that_is_none_or_has_no_adapter(copied: Path, tmp_path: Path) -> None:
    run = copied / "gallop-1" / "seed-0"
    out = tmp_path / "out"
    assert "does not exist; give a run folder" in refused(copied / "gallop-1" / "seed-7", "delta", out)
    assert "is not a run folder; give <output>/<sweep>" in refused(copied, "delta", out)
    run.joinpath("adapter.safetensors").rename(run / "away")
    assert "is not there any more" in refused(run, "delta", out)
    result = json.loads((run / "result.json").read_text()) | {"status": "diverged", "reason": "the loss became NaN"}
    (run / "result.json").write_text(json.dumps(result))
    assert "diverged (the loss became NaN); only a run that finished" in refused(run, "delta", out)
    (run / "result.json").unlink()
    assert "has not finished; `gallop-ray run` with its sweep file resumes it" in refused(run, "delta", out)


def test_a_place_that_is_taken(trained: Trained, tmp_path: Path) -> None:
    for taken in (tmp_path / "file", tmp_path / "folder"):
        inside = taken / "mine" if taken.name == "folder" else taken
        inside.parent.mkdir(exist_ok=True)
        inside.write_text("precious")
        assert "name another with --output" in refused(trained.run("gallop").path, "merged", taken)
        assert inside.read_text() == "precious"


@pytest.mark.parametrize("to", ["delta", "peft", "merged"])
def test_a_damaged_adapter(copied: Path, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = copied / "gallop-1" / "seed-0" / "adapter.safetensors"
    whole, out = adapter.read_bytes(), tmp_path / "out"
    for data in (b"", whole[: len(whole) // 2], whole[:-4] + b"\0\0\xc0\x7f"):
        adapter.write_bytes(data)
        assert main(["export", str(adapter.parent), "--to", to, "--output", str(out)]) == 2
        said = capsys.readouterr().err
        assert f"{adapter} is damaged" in said
        assert "Traceback" not in said
        assert not out.exists()


def test_an_adapter_that_lacks_what_its_run_recorded(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = copied / "gallop-1" / "seed-0", tmp_path / "out"
    found, metadata = load_adapter(run / "adapter.safetensors")
    name, (indices, delta) = found.popitem()
    kept = {key: value for key, value in metadata.items() if key in ("base_hash", "configuration", "seed")}
    for part in (found, {**found, name: (indices[1:], delta[1:])}):
        save_adapter(
            run / "adapter.safetensors",
            {n: i for n, (i, _) in part.items()},
            {n: d for n, (_, d) in part.items()},
            kept,
        )
        assert main(["export", str(run), "--to", "delta", "--output", str(out)]) == 2
        assert f"entries that were trained in {name.removesuffix('.weight')}" in capsys.readouterr().err
        assert not out.exists()


def test_a_foreign_adapter(copied: Path, tmp_path: Path) -> None:
    run = copied / "gallop-1" / "seed-0"
    save_file({"a": torch.zeros(1)}, run / "adapter.safetensors", {"format": "pt"})
    assert "has the format 'pt'" in refused(run, "delta", tmp_path / "out")


def test_a_mask_too_full_for_shira_is_told_in_words_of_the_user(copied: Path, tmp_path: Path) -> None:
    run = copied / "gallop-1" / "seed-0"
    full = "model.layers.0.mlp.up_proj.weight"
    indices = {full: torch.arange(2000, dtype=torch.int32)}
    of_base = {"base_hash": metadata_of(run / "adapter.safetensors")["base_hash"]}
    save_adapter(run / "adapter.safetensors", indices, {full: torch.ones(2000)}, of_base)
    (run / "mask.json").unlink()
    said = refused(run, "peft", tmp_path / "out")
    assert (
        "so many of the entries of every matrix are trained that SHiRA, PEFT's form for sparse changes, holds" in said
    )
    assert "use --to merged or --to delta" in said


@pytest.mark.parametrize(
    ("method", "to"),
    [("gallop", "merged"), ("lora", "merged"), ("gallop", "lora"), ("gallop", "peft"), ("peft", "peft")],
)
def test_another_base_model(
    copied: Path, trained: Trained, tmp_path: Path, method: str, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = Path(shutil.copytree(trained.base, tmp_path / "base")), tmp_path / "out"
    out.mkdir()
    model = trained.load()
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(base)
    spec = json.loads((copied / "spec.json").read_text())
    (copied / "spec.json").write_text(json.dumps(spec | {"model": spec["model"] | {"name": str(base)}}))
    assert main(["export", str(copied / f"{method}-1" / "seed-0"), "--to", to, "--output", str(out)]) == 2
    assert "load the same weights in the same dtype" in capsys.readouterr().err
    assert not list(out.iterdir())


@pytest.mark.parametrize(("method", "to"), [("full", "merged"), ("lora", "peft")])
def test_a_base_model_that_computes_otherwise(
    copied: Path, trained: Trained, tmp_path: Path, method: str, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = Path(shutil.copytree(trained.base, tmp_path / "base")), tmp_path / "out"
    settings = json.loads((base / "config.json").read_text())
    settings["rope_parameters"]["rope_theta"] = 77.0
    (base / "config.json").write_text(json.dumps(settings))
    spec = json.loads((copied / "spec.json").read_text())
    (copied / "spec.json").write_text(json.dumps(spec | {"model": spec["model"] | {"name": str(base)}}))
    assert main(["export", str(copied / f"{method}-1" / "seed-0"), "--to", to, "--output", str(out)]) == 2
    assert "computes otherwise: rope_parameters.rope_theta (was 10000.0, is 77.0)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("to", ["merged", "peft"])
def test_a_disk_that_takes_no_more(trained: Trained, tmp_path: Path, to: str) -> None:
    run, out = trained.run("lora").path, tmp_path / "out"
    command = f"ulimit -f 8; exec {sys.executable} -m gallop_ray export {run} --to {to} --output {out}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert f"{out}" in done.stderr.splitlines()[-1]
    assert "unexpected" not in done.stderr
    assert not out.exists()


def test_a_form_that_there_is_not(trained: Trained) -> None:
    with pytest.raises(ValueError, match="to is delta or peft or lora or merged, not 'safetensors'"):
        gallop_ray.export(trained.run("gallop").path, "safetensors")


def test_a_full_run_of_another_architecture(
    copied: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = json.loads((copied / "spec.json").read_text())
    (copied / "spec.json").write_text(json.dumps(spec | {"model": spec["model"] | {"dtype": "bfloat16"}}))
    run, out = copied / "full-1" / "seed-0", tmp_path / "out"
    assert main(["export", str(run), "--to", "merged", "--output", str(out)]) == 2
    assert "put the base model back as it was" in capsys.readouterr().err
    assert not out.exists()
