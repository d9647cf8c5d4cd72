"""Rows in .npy files are those of the array, whatever is asked for, and stay on disk."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from probes import images

from jaxae import data, detectors
from jaxae.cli import main as cli
from jaxae.cli import score
from jaxae.config import DataConfig
from jaxae.data import arrayfiles
from jaxae.data.own import arrays
from jaxae.devices import tuning
from jaxae.errors import UserError

X = images(103)
Y = (np.arange(40) % 2).astype(np.int64)


@pytest.fixture
def parts(tmp_path):
    """The rows in three files of different lengths."""
    for i, rows in enumerate(np.split(X, [50, 51])):
        np.save(tmp_path / f"x_train-{i:05}.npy", rows)
    return sorted(tmp_path.glob("x_train-*"))


INDICES = [
    slice(None),
    slice(10, 70),
    slice(70, 10, -7),
    slice(5, 5),
    np.arange(20, 60),
    np.random.default_rng(0).permutation(103),
    np.array([3, 3, 102, 0, -1]),
    np.arange(103) % 5 == 0,
    np.array([], int),
]


@pytest.mark.parametrize("index", INDICES, ids=range(len(INDICES)))
@pytest.mark.parametrize("ahead", [256, 7])
def test_they_are_the_rows_of_the_array(index, parts, ahead, monkeypatch):
    monkeypatch.setattr(arrayfiles, "_AHEAD", ahead)
    monkeypatch.setattr(arrayfiles, "_SLOW", -1.0 if ahead == 7 else 1.0)  # as from a slow disk
    for source in (arrayfiles.on_disk(parts), arrayfiles.on_disk(parts[:1])):
        expected = X[: len(source)]
        if isinstance(index, np.ndarray):
            index = index[index < len(source)] if index.dtype != bool else index[: len(source)]
        assert source[index].dtype == np.float32  # this first read is timed
        found = source[index]
        np.testing.assert_array_equal(found, expected[index])
        assert found.dtype == np.float32
        assert found.flags.owndata


def test_rows_of_another_byte_order_are_read(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(">f4"))
    np.testing.assert_array_equal(arrayfiles.on_disk([tmp_path / "x.npy"])[3:9], X[3:9])


def test_rows_beyond_the_last_are_an_error(parts):
    with pytest.raises(IndexError):
        arrayfiles.on_disk(parts)[np.array([103])]


def folder_of(tmp_path, x_train=X, **others):
    arrays = {"x_test": X[:40], "y_test": Y} | others
    if x_train is not None:
        arrays["x_train"] = x_train
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_a_folder_of_arrays_is_the_npz_of_them(tmp_path):
    folder = folder_of(tmp_path)
    np.savez(tmp_path / "own.npz", x_train=X, x_test=X[:40], y_test=Y)
    found = [data.load(DataConfig(name=name)) for name in (str(folder), f"npz:{tmp_path}/own.npz")]
    for role in ("train", "valid", "test"):
        one, other = (getattr(of, role) for of in found)
        np.testing.assert_array_equal(one.x[:], other.x)
        np.testing.assert_array_equal(one.y, other.y)
    assert found[0].shape == (8, 8, 1)


def test_a_channel_may_be_left_out(tmp_path):
    folder = folder_of(tmp_path, X[..., 0], x_test=X[:40, ..., 0])
    found = data.load(DataConfig(name=f"npy:{folder}"))
    assert found.shape == (8, 8, 1)
    np.testing.assert_array_equal(found.test.x[:], X[:40])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_train": None}, "lacks x_train (or X)"),
        ({"x_train": X[:, 0]}, "both need the same shape"),
        ({"x_train": np.zeros((0, 8, 8, 1))}, "it must be [N, ...] with rows"),
        ({"x_train": X.astype(complex)}, "it must hold real numbers"),
        ({"x_train": np.array([[None]])}, "object arrays"),
        ({"x_train": np.asfortranarray(X[..., 0])}, "save it in the order of C"),
        ({"y_test": Y[:5]}, "one class per row"),
        ({"x_train-1": X}, "both x_train.npy and x_train-*.npy"),
    ],
)
def test_what_is_wrong_is_named(change, words, tmp_path):
    with pytest.raises(UserError) as caught:
        data.load(DataConfig(name=f"npy:{folder_of(tmp_path, **change)}"))
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_was_cut_off_or_is_unlike_the_others_is_named(parts):
    np.save(parts[1], X[:3].astype(np.float64))
    with pytest.raises(UserError, match="give all files one type and row shape"):
        arrayfiles.on_disk(parts)
    parts[2].write_bytes(parts[2].read_bytes()[:-1])
    with pytest.raises(UserError, match="does not match its"):
        arrayfiles.on_disk(parts)


WRONG = {
    "nan": (np.nan, np.float32, "x_train-00001.npy holds NaN or infinite values, first in row 17;"),
    "infinite": (-np.inf, np.float64, "x_train-00001.npy holds NaN or infinite values, first in"),
    "beyond float32": (1e39, np.float64, "x_train-00001.npy holds 1e+39, beyond float32, first in"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_file_and_row_of_a_wrong_value_are_named_before_training(
    wrong, tmp_path, capsys, monkeypatch
):
    value, dtype, says = WRONG[wrong]
    rows = X.astype(dtype)
    rows[50 + 17, 3] = value
    folder_of(tmp_path, None, **{"x_train-00000": rows[:50], "x_train-00001": rows[50:]})
    monkeypatch.setattr(tuning, "BLOCK", 8)
    args = f"train --data.name {tmp_path} --method dense --run-dir {tmp_path}/run"
    with pytest.raises(SystemExit) as stop:
        cli.main(args.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert "row 17; remove or fill such rows" in error
    assert not (tmp_path / "run").exists()


def test_a_value_in_memory_is_refused_as_one_on_disk(tmp_path):
    far = X.astype(np.float64)
    far[3, 0, 0] = 1e39
    np.savez(tmp_path / "own.npz", x_train=far, x_test=X[:40], y_test=Y)
    with pytest.raises(UserError, match=r"x_train holds 1e.39, beyond float32, first in row 3"):
        data.load(DataConfig(name=f"npz:{tmp_path}/own.npz"))
    folder_of(tmp_path, x_test=far[:40])  # a test row may be as strange as it likes
    assert len(data.load(DataConfig(name=f"npy:{tmp_path}")).test.x) == 40


def numbered(folder, *names, x=X):
    """A folder whose training rows are in parts with these names, in this order."""
    for name, rows in zip(names, np.array_split(x, len(names)), strict=True):
        np.save(folder / f"{name}.npy", rows)
    return folder_of(folder, None)


@pytest.mark.parametrize(
    "names",
    [
        [f"x_train-{i}" for i in range(12)],
        [f"x_train-{i:02}" for i in range(1, 12)],
        [f"X_train-{i}" for i in range(1, 11)],
        [f"x_train-{i:05}-of-00003" for i in range(3)],
        [f"x_train-{i}-of-3" for i in range(1, 4)],
        ["x-0"],
    ],
    ids=lambda names: names[-1],
)
def test_parts_are_in_the_order_of_their_numbers(names, tmp_path):
    numbered(tmp_path, *names)
    np.save(tmp_path / "._x_train-00001.npy", X)  # left by macOS
    np.testing.assert_array_equal(arrays.npy(tmp_path).x_train[:], X)


MISNUMBERED = {
    "gap": (["00000", "00002"], "lacks part 1 of x_train, beside x_train-00000.npy to"),
    "start": (["00002", "00003"], "lacks part 1 of x_train"),
    "copy": (["00000", "00001", "00001 (1)"], "x_train-00001 (1).npy is neither x_train.npy nor"),
    "named copy": (["00000", "00001", "00001-copy"], "x_train-00001-copy.npy is neither"),
    "twice": (["00000", "00001", "1"], "has the same number as x_train-00001.npy"),
    "digits": (["0", "01"], "x_train-01.npy and x_train-0.npy are numbered in two ways"),
    "letters": (["a", "b"], "x_train-a.npy is neither x_train.npy nor a part of it like"),
    "few of": (["0-of-3", "1-of-3"], "lacks part 2 of x_train"),
    "many of": (["0-of-2", "1-of-2", "2-of-2"], "holds 3 parts of x_train, more than x_train-0"),
    "two sets": (["0-of-2", "1-of-3"], "are of two sets; remove one set"),
    "some of": (["0", "1-of-2"], "are of two sets; remove one set"),
}


@pytest.mark.parametrize("wrong", MISNUMBERED)
def test_parts_whose_numbers_are_wrong_are_named(wrong, tmp_path):
    numbers, says = MISNUMBERED[wrong]
    numbered(tmp_path, *(f"x_train-{number}" for number in numbers))
    with pytest.raises(UserError) as caught:
        arrays.npy(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["x_train (1)", "x_train_1", "x_train copy", "X_TRAIN"])
def test_a_copy_of_a_whole_array_is_named(name, tmp_path):
    np.save(folder_of(tmp_path) / f"{name}.npy", X)
    with pytest.raises(UserError, match=re.escape(name)):
        arrays.npy(tmp_path)


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to", "copied"])
def test_a_part_that_is_another_one_is_named(how, tmp_path):
    first, second = (tmp_path / f"x_train-{i}.npy" for i in range(2))
    numbered(tmp_path, first.stem)
    if how == "copied":
        shutil.copy(first, second)
    else:
        getattr(second, how)(first)
    with pytest.raises(
        UserError, match=r"x_train-1.npy has the same content as x_train-0.npy; remove"
    ):
        arrays.npy(tmp_path)


def test_classes_may_be_in_parts(tmp_path):
    folder_of(tmp_path, y_train=np.arange(103) % 2)
    (tmp_path / "y_test.npy").unlink()
    for i, y in enumerate((Y[:20], Y[20:].astype(np.uint8))):
        np.save(tmp_path / f"y_test-{i}.npy", y)
    np.testing.assert_array_equal(arrays.npy(tmp_path).test_class_id, Y)
    np.save(tmp_path / "y_test-1.npy", Y[:20].astype(str))
    with pytest.raises(UserError, match=r"y_test-1.npy holds <U\d+ .20., .*y_test-0.npy int64"):
        arrays.npy(tmp_path)
    np.save(tmp_path / "y_test-1.npy", Y[20:])
    np.testing.assert_array_equal(arrays.npy(tmp_path).test_class_id, Y)  # equal parts are right
    (tmp_path / "y_test-1.npy").unlink()
    (tmp_path / "y_test-1.npy").symlink_to(tmp_path / "y_test-0.npy")
    with pytest.raises(UserError, match=r"y_test-1.npy has the same content as y_test-0.npy"):
        arrays.npy(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on streamed rows, and the same on resident ones."""
    folder = folder_of(tmp_path_factory.mktemp("streamed"))
    for feed in ("streaming", "resident"):
        args = f"train --data.name {folder} --method dense --score mse --train.epochs 2 "
        args += "--devices 2 --train.batch-size 16 --data.input none --model.latent 4 "
        cli.main([*args.split(), "--train.feed", feed, "--run-dir", str(folder / feed)])
    return folder


def test_streamed_rows_make_the_same_run(run):
    one, other = (np.load(run / feed / "scores.npz") for feed in ("streaming", "resident"))
    with one, other:
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_rows_are_judged_block_by_block_as_at_once(suffix, run, tmp_path, monkeypatch):
    whole, pieces = (tmp_path / f"{name}.{suffix}" for name in ("whole", "pieces"))
    score.score_file(run / "resident", run / "x_train.npy", whole)
    monkeypatch.setattr(score.tuning, "FEED_BYTES", 4 * 64 * 30)
    score.score_file(run / "resident", run / "x_train.npy", pieces)
    if suffix == "csv":
        assert whole.read_text() == pieces.read_text()
        return
    with np.load(whole) as one, np.load(pieces) as other:
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
        expected = detectors.judge(detectors.load(run / "resident/detector"), X)
        np.testing.assert_array_equal(one["score"], expected.score)


def test_a_bad_row_far_down_is_named_and_leaves_no_file(run, tmp_path, monkeypatch):
    rows = X.copy()
    rows[97] = np.inf
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.setattr(score.tuning, "FEED_BYTES", 4 * 64 * 30)
    with pytest.raises(UserError, match="first row 97"):
        score.score_file(run / "resident", tmp_path / "rows.npy", tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


MEASURED = """
import sys
from jaxae.cli import main as cli
cli.main(sys.argv[1:])
with open("/proc/self/status") as lines:  # what the system says of a child counts its parent's too
    print(*(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def peak(*args):
    """Megabytes that a command had in memory at most."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, args)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1e3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_stays_flat_however_many_rows_there_are(tmp_path):
    """1.5 GB of rows are trained on, and 10 million judged, in what some thousand take."""
    generator, found = np.random.default_rng(0), {}
    for count in (20_000, 480_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        train = np.lib.format.open_memmap(
            folder / "x_train.npy", "w+", np.float32, (count, 28, 28, 1)
        )
        for first in range(0, count, 20_000):
            train[first : first + 20_000] = generator.random((20_000, 28, 28, 1), np.float32)
        del train
        folder_of(folder, None, x_test=generator.random((40, 28, 28, 1), np.float32))
        args = f"train --data.name {folder} --method dense --score mse --train.epochs 1 "
        args += "--train.feed streaming --train.batch-size 128 --data.input none --model.latent 8 "
        found[count] = peak(*args.split(), "--run-dir", folder / "run")
    assert found[480_000] < found[20_000] + 500
    assert found[480_000] < 1900

    run = tmp_path / "narrow"
    folder_of(tmp_path, generator.random((500, 8), np.float32), x_test=generator.random((40, 8)))
    np.save(tmp_path / "x_test.npy", generator.random((40, 8), np.float32))
    args = f"train --data.name {tmp_path} --method dense --score mse --train.epochs 2"
    peak(*args.split(), "--run-dir", run)
    for count in (100_000, 10_000_000):
        np.save(tmp_path / "rows.npy", generator.random((count, 8), np.float32))
        out = "--out", tmp_path / "out.csv", "--overwrite"
        found[count] = peak("score", run, tmp_path / "rows.npy", *out)
    # What is said of each row takes 30 bytes; the rows themselves would be 320 MB more.
    assert found[10_000_000] < found[100_000] + 400
    with (tmp_path / "out.csv").open() as lines:
        assert sum(1 for _ in lines) == 10_000_001
