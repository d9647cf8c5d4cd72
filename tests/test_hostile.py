"""Whatever a user gives `jaxae train` and `jaxae score`: a right answer, or one line and its code.

The answers are computed once more, in NumPy, from nothing but the arrays in `detector/`.
"""

import contextlib
import io
import json
import os
import pickle
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from jaxae.cli import main as cli
from jaxae.reports import plots

MANY = int(os.environ.get("JAXAE_HOSTILE_CASES", "0"))


def cases(fast, slow):
    """How many cases a test tries: some always, more in its slow twin, or as many as asked for."""
    common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    marks = {"few": (fast, ()), "many": (MANY or slow, pytest.mark.slow)}
    return [
        pytest.param(settings(max_examples=count, derandomize=True, **common), marks=mark, id=name)
        for name, (count, mark) in marks.items()
    ]


def command(*args):
    """Run `jaxae` in this process: (exit code, standard output, lines of standard error).

    The progress bar is no line. A warning is, since it would stand on a user's screen.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            cli.main([*map(str, args)])
        except SystemExit as stop:
            code = stop.code or 0
    lines = [line for line in err.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("training:")]
    return code, out.getvalue(), lines + [str(warning.message) for warning in warned]


def check_end(code, lines, known):
    """Zero without a word on standard error, or one line and its code."""
    assert code in (0, 1, 2), known
    if not code:
        assert lines == [], known
        return
    assert len(lines) == 1, (known, lines)
    assert lines[0].startswith("error: " if code == 2 else "training failed: "), (known, lines)


OUTPUTS = {
    "sigmoid": expit,
    "tanh": np.tanh,
    "relu": lambda h: np.maximum(h, 0),
    "linear": np.array,
}


def network(arrays, member, x, kind):
    """A dense autoencoder's reconstruction, layer by layer, in float64."""
    h = x.reshape(len(x), -1).astype(np.float64)
    for half in ("encoder", "decoder"):
        prefix = f"variables/params/{half}/"
        names = sorted({name.split("/")[3] for name in arrays if name.startswith(prefix)})
        for i, name in enumerate(names):
            kernel, bias = (arrays[f"{prefix}{name}/{part}"][member] for part in ("kernel", "bias"))
            h = h @ kernel.astype(np.float64) + bias
            if i < len(names) - 1:
                h = np.maximum(h, 0)
    return OUTPUTS[kind](h).reshape(x.shape)


def recomputed(folder, raw):
    """(scores, decisions) of raw rows, from the arrays of a detector alone."""
    about = json.loads((folder / "description.json").read_text())
    with np.load(next(folder.glob("arrays-*.npz"))) as stored:
        arrays = dict(stored)
    with np.errstate(over="ignore"):
        x = raw.reshape(-1, *about["shape"]).astype(arrays["scaling/shift"].dtype)
    x = x / np.float32(255) if about["dtype"] == "uint8" else x
    x = (x - arrays["scaling/shift"]) / arrays["scaling/scale"]
    kind = about["config"]["model"]["output_activation"]
    distance = {"mse": np.square, "mae": np.abs}[about["config"]["score"]]
    errors = [
        distance(x - network(arrays, member, x, kind)).reshape(len(x), -1).mean(axis=1)
        for member in range(about["members"])
    ]
    scores = np.mean(errors, axis=0)
    return scores, scores > arrays["decision/state/threshold"]


def assert_right(score, is_anomaly, folder, raw):
    """Scores and decisions are those of the arrays; where a score ties a threshold, either is."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected, flagged = recomputed(folder, raw)
    assert np.isfinite(score).all()
    beyond = ~(expected < 1e36)  # in float32 it may overflow on the way
    assert (score[beyond] > 1e35).all()
    assert is_anomaly[beyond].all()
    score, is_anomaly, expected, flagged = (
        values[~beyond] for values in (score, is_anomaly, expected, flagged)
    )
    np.testing.assert_allclose(score, expected, rtol=2e-4, atol=1e-6)
    threshold = json.loads((folder / "description.json").read_text())["threshold"]
    clear = np.abs(expected - threshold) > 2e-4 * abs(threshold) + 1e-6
    np.testing.assert_array_equal(is_anomaly[clear], flagged[clear])


RUNS = {
    "vectors": ((6,), np.float32, "--ensemble 2 --data.scale standard --model.output-activation "
                                  "linear --score mse"),
    "pixels": ((4, 5), np.uint8, "--score mse"),
    "series": ((12, 2), np.float64, "--score mae"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _undrawn():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *args: [])
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by name: (folder of the run, shape of a row, dtype of raw rows)."""
    found = {}
    for name, (shape, dtype, args) in RUNS.items():
        folder = tmp_path_factory.mktemp(name)
        x = np.random.default_rng(0).random((60, *shape))
        x = (255 * x if dtype == np.uint8 else x).astype(dtype)
        np.savez(folder / "x.npz", x_train=x[:40], x_test=x[40:], y_test=np.arange(20) % 2)
        code, _, lines = command(
            *("train", "--data.name", f"npz:{folder / 'x.npz'}", "--run-dir", folder / "run"),
            *("--method", "dense", "--train.epochs", 2, "--devices", 1, *args.split()),
        )
        assert (code, lines) == (0, [])
        found[name] = folder / "run", shape, dtype
    return found


NUMBERS = st.sampled_from(
    [0.0, 1.0, -1.0, 0.5, 255.0, 1e-30, -1e6, 1e19, -1e30, 3e38, 1e300, np.nan, np.inf, -np.inf]
)
DTYPES = ("float32", "float64", "float16", "uint8", "int64", "bool", "complex64", "U3", "M8[s]",
          "S2", "longdouble", ">f4", "f4,i2")  # fmt: skip


def wrong_in(draw, *parts):
    """What is hostile in a case: one or two of its parts, or none."""
    return set(draw(st.lists(st.sampled_from([*parts, "none"]), min_size=1, max_size=2)))


@st.composite
def arrays_like(draw, shape, dtype, wrong):
    """Rows that fit a detector, or nearly, or not at all."""
    rows = draw(st.sampled_from([3, 1, 17]))
    other = st.lists(st.sampled_from([0, 1, 2, 4, 5, 6, 12]), max_size=4).map(tuple)
    full = draw(st.one_of(other, st.just((0, *shape)))) if "shape" in wrong else (rows, *shape)
    to = np.dtype(draw(st.sampled_from(DTYPES)) if "dtype" in wrong else dtype)
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    x = generator.random(full) * (255 if to.kind in "ui" else 1)
    if x.size and "values" in wrong:
        flat = x.reshape(-1)
        for _ in range(draw(st.integers(1, 4))):
            flat[generator.integers(flat.size)] = draw(NUMBERS)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.zeros(full, to) if to.names or to.kind == "M" else x.astype(to)


def save(path, x, how):
    """An array in one of the files that are read."""
    if how == "npy":
        np.save(path, x)
    elif how == "npz":
        np.savez(path, x)
    elif how == "both":
        np.savez(path, x_test=x, other=np.ones(3))
    else:
        text = x.reshape(len(x), -1) if x.ndim > 1 else x.reshape(1, -1)
        np.savetxt(path, text.astype("U32"), delimiter=",", fmt="%s")


@st.composite
def damage(draw):
    """What happens to a file's bytes."""
    how = draw(st.sampled_from(["cut", "flip", "empty", "noise", "pickle", "twice"]))
    at, to = draw(st.integers(0, 999)) / 1000, draw(st.integers(0, 255))

    def apply(content):
        i = int(at * len(content))
        return {
            "cut": content[:i],
            "flip": content[:i] + bytes([to]) + content[i + 1 :],
            "empty": b"",
            "noise": np.random.default_rng(to).bytes(i + 1),
            "pickle": pickle.dumps([1, 2, 3]),
            "twice": content + content,
        }[how]

    return apply


@pytest.mark.parametrize("how_many", cases(80, 600))
def test_scores_of_hostile_files_are_right_or_one_line(how_many, runs, tmp_path):
    ended = {0: 0, 2: 0}

    @how_many
    @given(st.data())
    def judge(data):
        folder, shape, dtype = runs[data.draw(st.sampled_from(list(RUNS)))]
        wrong = wrong_in(data.draw, "shape", "dtype", "values", "bytes", "out")
        x = data.draw(arrays_like(shape, dtype, wrong))
        how = data.draw(st.sampled_from(["npy", "npz", "both", "csv"]))
        path = tmp_path / f"rows.{'npz' if how == 'both' else how}"
        try:
            save(path, x, how)
        except (ValueError, TypeError):  # some arrays have no text
            return
        whole = path.read_bytes()
        if "bytes" in wrong:
            path.write_bytes(data.draw(damage())(whole))
        intact = path.read_bytes() == whole
        out = data.draw(st.sampled_from(["out.txt", "no/out.csv"] if "out" in wrong
                                        else ["out.csv", "out.npz"]))  # fmt: skip
        out = tmp_path / out
        out.unlink(missing_ok=True)
        code, printed, lines = command("score", folder, path, "--out", out)
        check_end(code, lines, (how, x.dtype, x.shape))
        ended[code] += 1
        if code:
            assert not out.exists()
            assert printed == ""
            return
        if out.suffix == ".npz":
            with np.load(out) as stored:
                found = dict(stored)
        else:
            header, *rows = out.read_text().splitlines()
            columns = np.array([row.split(",") for row in rows], np.float64).T
            found = dict(zip(header.split(","), columns, strict=True))
            found["is_anomaly"] = found["is_anomaly"] == 1
        assert f"{found['is_anomaly'].sum()} of {len(found['score'])} rows" in printed
        assert np.isfinite(found["score"]).all()
        if intact and how != "csv":
            assert_right(found["score"], found["is_anomaly"], folder / "detector", x)
        elif intact:
            text = np.loadtxt(path, delimiter=",", ndmin=2)
            assert_right(found["score"], found["is_anomaly"], folder / "detector", text)

    judge()
    assert min(ended.values()) > sum(ended.values()) / 8  # both happen


FLAGS = {
    "--method": ["dense", "conv", "alocc", "auto", "gan", ""],
    "--score": ["mse", "mae", "mse+mae", "blurred_energy", "latent_knn", "d_of_r", "mse+mse",
                "+"],
    "--threshold.rule": ["quantile:0.9", "max", "mean_std:2", "mad:3", "mean_std:1e39",
                         "quantile:1", "quantile:nan", "max:1", ":"],
    "--threshold.on": ["train", "valid", "test"],
    "--threshold.limit": [0, 1, -1],
    "--train.batch-size": [1, 2, 4, "auto", 0, -3, 10**9, "x", 1.5],
    "--train.noise-std": [0.1, "nan", "inf", -1, 1e30],
    "--train.loss": ["mse", "mae", "bce", "huber"],
    "--train.checkpoint-every": [1, 0],
    "--optim.lr": [1e-3, 0, "inf", 1e30, -1],
    "--optim.name": ["adam", "sgd", "rmsprop", "lion"],
    "--optim.eps": [1e-8, 0, 1e38],
    "--optim.weight-decay": [0, 1e-3, 1e30],
    "--model.latent": [1, 3, "auto", 0, -1, 10**12],
    "--model.hidden": [3, 0, 10**10],
    "--model.output-activation": ["sigmoid", "linear", "tanh", "auto", "relu", "swish"],
    "--model.kernels": ["3 3", "31 31", "0 0", "3"],
    "--data.scale": ["none", "minmax", "standard", "auto", "log"],
    "--data.normal": ["0", "1", "0 1", "-1", "99999999999"],
    "--data.anomaly": ["1", "0", "7"],
    "--data.corruption": ["rotation:90", "noise:0.1", "noise:nan", "melt:1"],
    "--data.limit": [0, 2, 5, 1, -1],
    "--data.valid-fraction": [0.2, 0.0, 1.0, 0.999, "nan"],
    "--data.valid": ["holdout", "test"],
    "--data.split": ["random", "official"],
    "--data.rows": ["auto", "images", "series"],
    "--data.balance": [""],
    "--ensemble": [1, 2, 0, 10**9],
    "--devices": [1, 2, 3, -1, 10**6],
    "--seed": [0, 2**32, -1, 7],
    "--studies": ["tsne", "denoising", "verdicts severity", "beats", "latent_grid", "corrupted",
                  "epoch_scores", "tarot", "scores_compared loss_histograms batch_threshold"],
    "--train.monitor": [""],
    "--train.select": ["last", "valid_loss", "pseudo_anomalies", "oracle", "best"],
    "--train.oracle": [""],
    "--score-dtype": ["bfloat16", "float16"],
}  # fmt: skip
FITTING = ("uniform", "wide", "pixels", "integers", "one column constant")
VALUES = ("constant", "zeros", "nan", "huge", "tiny", "text")


def values(kind, shape, generator):
    x = generator.random(shape).astype(np.float32)
    with np.errstate(all="ignore"):
        return {
            "uniform": lambda: x,
            "wide": lambda: 50 * x - 20,
            "constant": lambda: np.full_like(x, 0.3),
            "zeros": lambda: 0 * x,
            "nan": lambda: np.where(x > 0.9, np.nan, x),
            "huge": lambda: x.astype(np.float64) * 1e38,
            "tiny": lambda: x * 1e-38,
            "pixels": lambda: (255 * x).astype(np.uint8),
            "integers": lambda: (100 * x).astype(np.int64),
            "text": lambda: x.astype("U5"),
            "one column constant": lambda: np.where(np.arange(shape[-1]) == 0, 1, x),
        }[kind]()


@st.composite
def data_sets(draw, wrong):
    """Arrays of an .npz: a data set, or nearly, or short of something."""
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    shape = draw(st.sampled_from([(6,), (6,), (6,), (8, 8), (9, 2), (8, 7, 1), (1,), (3, 3, 3, 1)]))
    few = st.sampled_from([(3, 2), (1, 1), (2, 4), (0, 4)])
    n, m = draw(few) if "rows" in wrong else (24, 12)
    both = draw(st.sampled_from(VALUES if "values" in wrong else FITTING))
    both = values(both, (n + m, *shape), generator)
    bad = ("34", "one", "float", "nan", "short")
    labels = draw(st.sampled_from(bad if "classes" in wrong else ("01", "-11")))
    y = {
        "01": np.arange(m) % 2, "-11": np.arange(m) % 2 * 2 - 1, "34": np.arange(m) % 2 + 3,
        "one": np.ones(m), "float": np.arange(m) / 2, "nan": np.full(m, np.nan),
        "short": np.arange(max(m - 1, 0)) % 2,
    }[labels]  # fmt: skip
    arrays = {"x_train": both[:n], "x_test": both[n:], "y_test": y}
    if "classes" in wrong:
        arrays["y_train"] = np.arange(n) % draw(st.sampled_from([1, 2, 3]))
    if "names" in wrong:
        del arrays[draw(st.sampled_from(sorted(arrays)))]
    return arrays


@pytest.mark.parametrize("how_many", cases(6, 36))
def test_runs_of_hostile_settings_are_right_or_one_line(how_many, tmp_path):
    ended = {0: 0, 1: 0, 2: 0}
    folders = (tmp_path / str(i) for i in range(10**6))

    @how_many
    @given(st.data())
    def train(data):
        folder = next(folders)
        folder.mkdir()
        if not int(folder.name) % 25:
            jax.clear_caches()  # a process can only hold so many programs
        wrong = wrong_in(data.draw, "rows", "values", "classes", "names", "flags", "flags", "flags")
        arrays = data.draw(data_sets(wrong))
        np.savez(folder / "x.npz", **arrays)
        some = st.lists(st.sampled_from(sorted(FLAGS)), max_size=3, unique=True)
        chosen = data.draw(some) if "flags" in wrong else []
        args = ["--data.name", f"npz:{folder / 'x.npz'}", "--run-dir", folder / "run"]
        args += ["--train.epochs", 1]
        for flag in chosen:
            args += [flag, *str(data.draw(st.sampled_from(FLAGS[flag]))).split()]
        code, _, lines = command("train", *args)
        known = ({k: (v.dtype, v.shape) for k, v in arrays.items()}, args)
        check_end(code, lines, known)
        ended[code] += 1
        if code == 2:
            assert not (folder / "run").exists(), known
        if code:
            assert not (folder / "run" / "report.json").exists(), known
            return
        report = json.loads((folder / "run" / "report.json").read_text())
        with np.load(folder / "run" / "scores.npz") as stored:
            scores = dict(stored)
        assert np.isfinite(scores["test"]).all(), known
        expected = roc_auc_score(scores["test_y"], scores["test"])
        np.testing.assert_allclose(report["auroc"], expected, atol=1e-5, err_msg=str(known))
        again = command("score", folder / "run", folder / "x.npz", "--out", folder / "o.npz")
        if "--data.corruption" in chosen or "--data.split" in chosen:
            return
        assert again[0] == 0, (known, again)
        with np.load(folder / "o.npz") as found:
            score, is_anomaly = found["score"][scores["test_id"] - len(arrays["x_train"])], found
            np.testing.assert_array_equal(score, scores["test"], err_msg=str(known))
            if report["method"] == "dense" and report["score"] in ("mse", "mae"):
                whole = arrays["x_test"]
                if report["score_dtype"] == "float32":
                    assert_right(found["score"], is_anomaly["is_anomaly"],
                                 folder / "run" / "detector", whole)  # fmt: skip

    train()
    assert min(ended[0], ended[2]) > sum(ended.values()) / 10  # both happen


def test_the_recomputation_can_fail(runs):
    folder, shape, _ = runs["vectors"]
    x = np.random.default_rng(1).random((9, *shape), np.float32)
    score, is_anomaly = recomputed(folder / "detector", x)
    with pytest.raises(AssertionError):
        assert_right(score * 1.01, is_anomaly, folder / "detector", x)
    with pytest.raises(AssertionError):
        assert_right(score, ~is_anomaly, folder / "detector", x)


def test_rows_are_not_overwritten_by_their_scores(runs, tmp_path):
    folder, shape, dtype = runs["vectors"]
    path = tmp_path / "rows.npz"
    np.savez(path, np.zeros((2, *shape), dtype))
    before = path.read_bytes()
    Path(tmp_path / "link.npz").symlink_to(path)
    for out in (path, tmp_path / "link.npz"):
        code, _, lines = command("score", folder, path, "--out", out)
        check_end(code, lines, out)
        assert code == 2
    assert path.read_bytes() == before
