"""`jaxae list`, `run`, `verify`, `bench`, `completion`, and configurations from files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from probes import edit, write_npz

from jaxae.cli import main as cli
from jaxae.data.arrayfiles import read_npz
from jaxae.export import exporting
from jaxae.storage import manifest
from jaxae.workflows import experiment

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    data = write_npz(folder / "x.npz")
    cli.main(
        f"train --data.name {data} --method dense --train.epochs 2 --train.batch-size 16 "
        f"--run-dir {folder / 'runs/one'}".split()
    )
    return folder / "runs/one"


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def failing(args, capsys, code=2):
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == code
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said


def test_runs_are_listed_with_their_intervals(run, capsys):
    (run.parent / "torn").mkdir(exist_ok=True)
    (run.parent / "torn/report.json").write_text("{")
    cli.main(["list", "--runs", str(run.parent)])
    header, line = capsys.readouterr().out.splitlines()
    report = json.loads((run / "report.json").read_text())
    assert header.split()[0] == "run"
    assert line.split()[:2] == ["one", "run"]
    assert "{:.4f} [{:.4f}, ".format(report["auroc"], report["auroc_interval"][0]) in line
    cli.main(["list", "--runs", str(run.parent), "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["auroc"] == report["auroc"]
    failing(["list", "--runs", str(run / "nowhere")], capsys)


def test_a_whole_run_is_verified(run, capsys):
    cli.main(["verify", str(run)])
    lines = capsys.readouterr().out.splitlines()
    names = [
        "files",
        "detector",
        "configuration",
        "checkpoint",
        "data",
        "decisions",
        "scores",
        "losses",
        "report",
    ]
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in names]
    assert "48 test and 86 training rows scored as recorded, bit for bit; 0 decisions" in lines[-3]
    cli.main(["verify", str(run / "detector"), "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["outcome"] == "ok"


@pytest.mark.slow
def test_a_run_is_trained_again_and_has_the_same_digests(run, copy, capsys, monkeypatch):
    cli.main(["verify", str(run), "--retrain"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:3] == ["ok", "trained", "again"]
    assert "the digests of parameters and scores agree, bit for bit" in last
    train = experiment.run  # as another machine might round
    monkeypatch.setattr(experiment, "run", lambda cfg: train(edit(cfg, {"optim.lr": 0.0010001})))
    said = failing(["verify", str(copy), "--retrain"], capsys)
    assert said.err.endswith("failed the checks: trained again\n")
    assert "relative to the largest; nothing else differs" in said.out
    (copy / "provenance.jsonl").write_text('{"python": "2.7"}\n')
    manifest.seal(copy)
    cli.main(["verify", str(copy), "--retrain"])
    said = capsys.readouterr().out
    assert "python was 2.7, is 3" in said
    assert "within 0.01" in said
    assert "not a run folder" in failing(["verify", str(run / "detector"), "--retrain"], capsys).err


def test_a_score_on_record_that_is_no_number_is_no_score(copy, capsys):
    arrays = read_npz(copy / "scores.npz")
    for changed in (arrays["test"] * np.nan, arrays["test"][:5], None):
        kept = {name: values for name, values in arrays.items() if name != "test"}
        np.savez(copy / "scores.npz", **kept, **({} if changed is None else {"test": changed}))
        manifest.seal(copy)
        said = failing(["verify", str(copy)], capsys).err
        assert "failed the checks: decisions, scores" in said


def test_what_orbax_left_half_written_is_no_checkpoint(copy, capsys):
    (copy / "checkpoints/3.orbax-checkpoint-tmp-1").mkdir()
    cli.main(["verify", str(copy)])
    assert "3.orbax" not in capsys.readouterr().out


def test_a_damaged_report_is_one_line(copy, tmp_path, capsys):
    (copy / "report.json").write_text("{")
    assert "report.json" in failing(["export", str(copy), str(tmp_path / "d.zip")], capsys).err
    assert not (tmp_path / "d.zip").exists()


def test_exports_are_verified_too(run, tmp_path, capsys):
    path = exporting.write(run, tmp_path / "d.zip")
    cli.main(["verify", str(path)])
    assert "golden rows judged as recorded" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-30])
    assert "export" in failing(["verify", str(path)], capsys).err
    assert "no run" in failing(["verify", str(tmp_path)], capsys).err


def test_a_configuration_comes_from_a_file(run, tmp_path, capsys):
    config = run / "config.json"
    cli.main(
        ["train", "--config", str(config), "--seed", "3", "--run-dir", str(tmp_path / "again")]
    )
    first, again = (json.loads((f / "config.json").read_text()) for f in (run, tmp_path / "again"))
    assert again["seed"] == 3
    assert {k: v for k, v in again.items() if k not in ("seed", "run_dir")} == {
        k: v for k, v in first.items() if k not in ("seed", "run_dir")
    }
    (tmp_path / "bad.json").write_text("{")
    capsys.readouterr()
    for args in (["--config"], ["--config", "nowhere"], [f"--config={tmp_path / 'bad.json'}"]):
        assert "--config" in failing(["train", *args], capsys).err


def test_experiments_run_outside_of_a_clone(tmp_path, capsys):
    failing(["run"], capsys)
    assert "digits_conv" in failing(["run", "nothing"], capsys).err
    target = tmp_path / "installed"
    shutil.copytree(ROOT / "jaxae", target / "jaxae", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "experiments", target / "jaxae/experiments")  # as the wheel has them
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jaxae", "run", "mnist_conv_2d", "--help"],
        cwd=tmp_path, env={"PYTHONPATH": str(target), "PATH": ""}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "usage: jaxae run mnist_conv_2d" in done.stdout


def test_shells_complete_commands_and_settings(capsys):
    for shell in ("bash", "zsh"):
        cli.main(["completion", shell])
        said = capsys.readouterr().out
        for word in ("verify", "--data.name", "--against"):
            assert word in said
    failing(["completion", "fish"], capsys)


def test_speeds_are_measured(capsys):
    cli.main(["bench", "--methods", "dense", "--batch-size", "8", "--shape", "6", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["method"] == "dense"
    assert found["train_steps_per_s"] > 1
    assert found["score_rows_per_s"] > 1
    failing(["bench", "--methods", "forest"], capsys)
    assert "shape is (0,)" in failing(["bench", "--shape", "0"], capsys).err


def test_every_command_has_help_with_an_example(capsys):
    for name in ("train", *cli.COMMANDS):
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        assert f"`jaxae {name}" in " ".join(capsys.readouterr().out.split())
    cli.main(["run", "--help"])
    assert "jaxae run digits_conv" in capsys.readouterr().out
    assert len(cli.USAGE.splitlines()) <= 16
    assert all(f"  {name} " in cli.USAGE for name in cli.COMMANDS)
