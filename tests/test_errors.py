"""What a person sees who asks for something impossible: one line, code 2, and no debris."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from probes import edit, images, write_npz

from jaxae.cli.train import main
from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from jaxae.errors import UserError, unknown, user_errors

CONFIG = ExperimentConfig(
    name="trial",
    method="dense",
    model=ModelConfig(latent=2),
    data=DataConfig(name="digits", normal=(0,)),
    train=TrainConfig(epochs=1, batch_size=8),
)


def refused(args, capsys, cfg=CONFIG):
    """The one line that `main` prints for these arguments."""
    with pytest.raises(SystemExit) as stop:
        main(cfg, list(map(str, args)))
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data.name", "imagenet"], ["file 'imagenet'", "digits", "mnist", "npz:PATH"]),
        (["--method", "gan"], ["method 'gan'", "alocc, conv, dense"]),
        (["--score", "psnr"], ["score 'psnr'", "mae", "mse"]),
        (["--score", "mse+mse"], ["mse+mse", "twice"]),
        (["--threshold.rule", "magic:3"], ["threshold rule 'magic'", "quantile"]),
        (["--threshold.rule", "quantile:2"], ["quantile:2", "between 0 and 1"]),
        (["--threshold.rule", "mean_std"], ["mean_std", "number"]),
        (["--studies", "tarot"], ["study 'tarot'", "verdicts"]),
        (["--studies", "latent_grid", "--model.latent", 3], ["latent_grid", "--model.latent 2"]),
        (["--studies", "epoch_scores"], ["epoch_scores", "--train.monitor"]),
        (["--train.select", "oracle"], ["test labels", "--train.oracle", "valid_loss"]),
        (["--train.batch-size", 5000], ["train.batch_size 5000", "training rows"]),
        (["--devices", 4, "--train.batch-size", 6], ["train.batch_size 6", "not divisible by 4"]),
        (["--devices", 64, "--train.batch-size", 64], ["devices is 64", "4", "--devices"]),
        (["--data.normal", 77], ["data.normal", "77"]),
        (["--data.normal", *range(10)], ["no anomalies"]),
        (["--data.corruption", "melt:3"], ["corruption 'melt'", "rotation"]),
        (["--data.name", "npz:nowhere.npz"], ["nowhere.npz", "does not exist"]),
        (
            ["--method", "conv", "--model.kernels", 3, 99, "--model.paddings", "same", "valid"],
            ["model.kernels (3, 99)", "smaller kernels"],
        ),
        (
            ["--method", "conv", "--model.kernels", 3, 31],
            ["model.kernels (3, 31)", "31 on maps of 14 x 14", "smaller kernels"],
        ),
        (["--train.epochs", 0], ["train.epochs is 0", "at least 1"]),
        (["--train.noise-std", "inf"], ["train.noise_std is inf", "finite"]),
        (["--optim.lr", "inf"], ["optim.lr is inf", "finite"]),
        (["--data.limit", 1], ["data.limit is 1", "at least 2"]),
        (["--model.latent", 10**9], ["1,569,000,000,784 parameters", "GB", "model.latent"]),
        (["--threshold.rule", "mean_std:1e39"], ["mean_std:1e39", "between -1e+06 and 1e+06"]),
        (
            [
                "--data.scale",
                "standard",
                "--train.noise-std",
                0.1,
                "--model.output-activation",
                "linear",
                "--studies",
                "severity",
            ],
            ["study severity corrupts images in [0, 1]"],
        ),
        (["--score", "d_of_r"], ["'d_of_r' needs d_of_r", "method dense", "--method alocc"]),
        (["--model.latent", 0], ["model.latent is 0", "method dense", "at least 1"]),
        (["--model.activation", "swish"], ["activation 'swish'", "relu"]),
        (["--model.head-kernel", 3], ["model.head_kernel is 3", "dense", "leave it at 0"]),
        (["--variant", "faithful"], ["variant is 'faithful'", "leave it at 'default'"]),
        (
            ["--optim.lr-discriminator", 1],
            ["optim.lr_discriminator is 1", "not used with --method"],
        ),
        (["--method", "alocc"], ["model.latent is 2", "method alocc", "leave it at 32"]),
        (["--data.name", "mnist", "--data.dir", "nowhere"], ["nowhere", "--data.dir"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(["--run-dir", "run", *args], capsys)
    for word in words:
        assert word in line
    assert list(Path().iterdir()) == []


def test_a_run_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = refused(["--run-dir", tmp_path / "file" / "run"], capsys)
    assert str(tmp_path / "file" / "run") in line
    assert "--run-dir" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("y_test", "words"),
    [
        ([1, 1, 1, 1], ["test set has no normal rows"]),
        ([0, 0, 0, 0], ["no anomalies"]),
    ],
)
def test_a_test_set_with_one_class_only(y_test, words, capsys, tmp_path):
    x = {"x_train": images(16), "y_train": np.zeros(16), "x_test": images(4), "y_test": y_test}
    np.savez(tmp_path / "x.npz", **x)
    args = ["--data.name", f"npz:{tmp_path / 'x.npz'}", "--run-dir", tmp_path / "run"]
    if y_test[0]:
        args += ["--data.normal", 0]
    line = refused(args, capsys, edit(CONFIG, {"data.normal": ()}))
    assert all(word in line for word in words)
    assert not (tmp_path / "run").exists()


def test_rows_that_the_method_cannot_take(capsys, tmp_path):
    write_npz(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as stored:
        flat = {k: v.reshape(len(v), -1) if k[0] == "x" else v for k, v in stored.items()}
    np.savez(tmp_path / "flat.npz", **flat)
    args = ["--data.name", f"npz:{tmp_path / 'flat.npz'}", "--run-dir", tmp_path / "run"]
    cfg = edit(CONFIG, {"data.normal": ()})
    for method, latent, word in (("conv", 2, "--method dense"), ("alocc", 32, "images")):
        line = refused([*args, "--method", method, "--model.latent", latent], capsys, cfg)
        assert word in line
    assert not (tmp_path / "run").exists()


def test_divergence_is_one_line_and_code_1(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(CONFIG, ["--run-dir", str(tmp_path), "--optim.lr", "1e30", "--train.loss", "mse"])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "training failed: " in err
    assert "optim.lr" in err
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("seed is -1"), 2, "error: seed is -1"),
        (FloatingPointError("loss is nan"), 1, "training failed: loss is nan"),
        (KeyboardInterrupt(), 130, "the same command resumes"),
    ],
)
def test_what_a_person_can_do_something_about_is_said_in_one_line(error, code, words, capsys):
    with pytest.raises(SystemExit) as stop, user_errors():
        raise error
    assert stop.value.code == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_reader_who_leaves_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "jaxae", "list", "--names"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 141


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError), user_errors():
        raise KeyError("x")


def test_a_user_error_is_a_value_error_that_lists_what_is_known():
    error = unknown("score", "x", {"b": 1, "a": 2})
    assert isinstance(error, UserError)
    assert isinstance(error, ValueError)
    assert str(error) == "unknown score 'x'; known: a, b"


OUTSIDE = [
    ("dense", {"model.output_activation": "linear", "train.noise_std": 0.1}, lambda x: x - 0.5,
     ["-0.5 to 0.5", "train.noise_clip", "--train.no-noise-clip"]),
    ("dense", {}, lambda x: 100 * x, ["0 to 100", "sigmoid", "covers only 0 to 1", "--data.scale"]),
    ("dense", {}, lambda x: x - 0.5, ["-0.5 to 0.5", "--model.output-activation linear"]),
    ("dense", {"model.output_activation": "tanh"}, lambda x: 3 * x, ["covers only -1 to 1"]),
    ("dense", {"model.output_activation": "linear", "train.loss": "bce"}, lambda x: 2 * x,
     ["0 to 2", "train.loss bce", "--train.loss mse"]),
    ("conv", {"data.scale": "standard"}, lambda x: x, ["sigmoid", "--data.scale minmax"]),
    ("dense", {}, lambda x: np.int32(255 * x), ["0 to 255"]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "changes", "make", "words"), OUTSIDE)
def test_rows_that_no_output_can_reach_are_refused_before_training(
    method, changes, make, words, capsys, tmp_path
):
    x = images(40)
    x = (x - x.min()) / (x.max() - x.min())
    arrays = {"x_train": make(x[:30]), "x_test": make(x[20:]), "y_test": np.arange(20) // 10}
    np.savez(tmp_path / "x.npz", **arrays)
    cfg = edit(CONFIG, {"method": method, "data.normal": (), "train.batch_size": 8} | changes)
    args = ["--data.name", f"npz:{tmp_path / 'x.npz'}", "--run-dir", tmp_path / "run"]
    line = refused(args, capsys, cfg)
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()
