import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from probes import images
from scipy import stats

from jaxae import detectors
from jaxae.cli import main as cli
from jaxae.cli import score
from jaxae.detectors import explanation
from jaxae.detectors.evaluation import evaluate
from jaxae.devices import tuning
from jaxae.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of `jaxae train` on a user's own vectors, scaled by `standard`."""
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    normal = generator.normal(3.0, [1.0, 5.0, 0.2, 2.0], size=(200, 4))
    strange = generator.normal(30.0, 5.0, size=(20, 4))
    test = np.concatenate([normal[150:], strange])
    y = np.arange(len(test)) >= 50
    np.savez(folder / "own.npz", x_train=normal[:150], x_test=test, y_test=y.astype(int))
    np.save(folder / "test.npy", test)
    args = (
        f"--name own --data.name npz:{folder / 'own.npz'} --run-dir {folder / 'run'} "
        "--method dense --model.latent 2 --model.output-activation linear --data.scale standard "
        "--train.epochs 5 --train.batch-size 16 --devices 1 --score mse+latent_mahalanobis"
    )
    cli.main(["train", *args.split()])
    return folder, y


def test_scores_of_a_file_are_those_of_the_run(run, capsys):
    folder, y = run
    cli.main(
        ["score", str(folder / "run"), str(folder / "test.npy"), "--out", str(folder / "out.npz")]
    )
    with np.load(folder / "out.npz") as found:
        assert found.files == ["row", "score", "p_value", "threshold", "is_anomaly"]
        score, p_value, is_anomaly = (found[k] for k in ("score", "p_value", "is_anomaly"))
    with np.load(folder / "run" / "scores.npz") as saved:
        reach = (saved["valid"][None] >= score[:, None]).sum(axis=1)
        np.testing.assert_allclose(p_value, (1 + reach) / (1 + len(saved["valid"])), rtol=1e-6)
        np.testing.assert_array_equal(score, saved["test"])
        np.testing.assert_array_equal(is_anomaly, saved["test_is_anomaly"])
        np.testing.assert_array_equal(y, saved["test_y"])
    said = capsys.readouterr().out
    assert f"{is_anomaly.sum()} of {len(y)} rows" in said
    assert "without a guarantee: score 'mse+latent_mahalanobis' is standardised" in said
    assert evaluate(score, y, is_anomaly)["auroc"] > 0.99


@pytest.mark.parametrize("fdr", [0.2, 0.7])
def test_a_selection_decides_about_all_rows_together(fdr, run, tmp_path, capsys, monkeypatch):
    folder, _ = run
    np.save(tmp_path / "few.npy", np.load(folder / "test.npy")[40:])  # 10 normals of 30
    monkeypatch.setattr(tuning, "FEED_BYTES", 4 * 4 * 7)  # blocks of seven rows
    args = ["score", str(folder / "run"), str(tmp_path / "few.npy"), "--out"]
    for name, more in (("rule", []), ("set", ["--fdr", str(fdr)])):
        cli.main([*args, str(tmp_path / f"{name}.npz"), *more])
    rule, chosen = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("rule", "set"))
    np.testing.assert_array_equal(chosen["p_value"], rule["p_value"])
    expected = stats.false_discovery_control(rule["p_value"].astype(np.float64)) <= fdr
    np.testing.assert_array_equal(chosen["is_anomaly"], expected)
    assert 0 < expected.sum() < 30
    np.testing.assert_array_equal(chosen["score"] > chosen["threshold"], expected)
    said = capsys.readouterr().out
    assert f"{expected.sum()} of 30 rows are anomalies; of these, a share of {fdr} at most" in said


def test_a_selection_of_nothing_says_how_many_rows_it_needs(run, capsys):
    folder, _ = run
    args = ["score", str(folder / "run"), str(folder / "test.npy"), "--fdr"]
    cli.main([*args, "0.1"])
    said = capsys.readouterr().out
    needed = int(re.search(r"no p-value is below 1/\d+, and (\d+) of 70 rows", said)[1])
    assert 20 < needed <= 70
    assert said.splitlines()[-1].startswith("0 of 70 rows are anomalies; p-values are ranks")
    cli.main([*args, "0.01"])
    said = capsys.readouterr().out
    lowest = re.search(r"so --fdr 0.01 selects nothing; .*, or --fdr ([0-9.]+) or more", said)[1]
    cli.main([*args, lowest])
    assert "selects nothing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [("--fdr 1.5", "--fdr is 1.5; it must be between 0 and 1"),
     ("--fdr nan", "--fdr is nan; it must be between 0 and 1"),
     ("--fdr 0.1 --explain", "leave out it or --fdr")],
)  # fmt: skip
def test_a_selection_that_cannot_be_is_refused(more, says, run, capsys):
    folder, _ = run
    with pytest.raises(SystemExit) as stop:
        cli.main(["score", str(folder / "run"), str(folder / "test.npy"), *more.split()])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_scores_that_rise_in_a_file_are_drift_and_others_are_none(run, tmp_path, capsys):
    folder, y = run
    rows = np.load(folder / "test.npy")
    normal, strange = rows[~y], rows[y]
    np.save(tmp_path / "same.npy", normal)
    np.save(tmp_path / "drifts.npy", np.concatenate([normal, strange]))
    found = {}
    for name in ("same", "drifts"):
        args = ["score", str(folder / "run"), str(tmp_path / f"{name}.npy"), "--drift"]
        cli.main(args)
        found[name] = capsys.readouterr().out
        cli.main([*args, "--json"])
        found[f"{name}.json"] = json.loads(capsys.readouterr().out)["drift"]
    assert "no drift: the wealth of bets on rising scores is" in found["same"]
    assert found["same.json"]["alarm"] is None
    assert found["same.json"]["wealth"] < 100
    assert "drift: scores have risen by row" in found["drifts"]
    assert len(normal) <= found["drifts.json"]["alarm"] <= len(normal) + 30
    assert found["drifts.json"]["wealth"] >= 100


def test_a_promise_is_checked_before_training_and_kept_by_the_run(run, tmp_path, capsys):
    folder, _ = run
    args = f"--name kept --data.name npz:{folder / 'own.npz'} --run-dir {tmp_path / 'run'} "
    args += "--method dense --model.latent 2 --model.output-activation linear --devices 1 "
    args += "--train.epochs 2 --train.batch-size 16 --data.valid-fraction 0.26"
    command = ["train", *args.split()]
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--threshold.rule", "conformal:0.02"])
    assert stop.value.code == 2
    assert "too low for 39 calibration rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    cli.main([*command, "--threshold.rule", "conformal:0.1"])
    said = score.score_file(tmp_path / "run", folder / "test.npy", tmp_path / "out.npz")
    assert "guarantee" not in capsys.readouterr().out
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["is_anomaly"], found["p_value"] <= np.float32(0.1))
        assert found["is_anomaly"].sum() == said["anomalies"] > 0


def as_csv(path, x, header=""):
    np.savetxt(path, x, delimiter=",", header=header, comments="", fmt="%.17g")


@pytest.mark.parametrize(
    ("name", "write"),
    [("rows.npy", np.save), ("rows.npz", lambda path, x: np.savez(path, mine=x)),
     ("rows.npz", lambda path, x: np.savez(path, x_test=x, y_test=x[:, 0])),
     ("rows.csv", as_csv), ("rows.csv", lambda path, x: as_csv(path, x, "a,b,c,d"))],
)  # fmt: skip
def test_rows_may_come_in_any_of_these_files(name, write, run, tmp_path):
    folder, _ = run
    write(tmp_path / name, np.load(folder / "test.npy"))
    score.score_file(folder / "run", tmp_path / name, tmp_path / "out.csv")
    found = detectors.judge(detectors.load(folder / "run/detector"), np.load(folder / "test.npy"))
    with np.load(folder / "run" / "scores.npz") as saved:
        np.testing.assert_array_equal(found.score, saved["test"])
    header, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "row,score,p_value,threshold,is_anomaly"
    table = np.array([line.split(",") for line in lines], np.float64)
    np.testing.assert_array_equal(table[:, 0], np.arange(len(table)))
    np.testing.assert_array_equal(table[:, 1].astype(np.float32), found.score)
    np.testing.assert_array_equal(table[:, 2].astype(np.float32), found.p_value)
    np.testing.assert_array_equal(table[:, 4] == 1, found.is_anomaly)
    np.testing.assert_array_equal(table[:, 1] > table[:, 3], found.is_anomaly)


def test_what_is_reconstructed_worst_is_named_on_the_screen_in_the_table_and_drawn(
    run, tmp_path, capsys
):
    folder, _ = run
    args = ["score", str(folder / "run"), str(folder / "test.npy"), "--explain"]
    cli.main([*args, "--out", str(tmp_path / "out.npz")])
    with np.load(tmp_path / "out.npz") as found:
        values, score = found["map"], found["score"]
        assert (found["map_of"] == "mse").all()
    worst, first = values.argmax(axis=1), score.argmax()
    shown = next(
        line.split() for line in capsys.readouterr().out.splitlines() if "feature " in line
    )
    assert (shown[0], shown[3]) == (str(first), f"{worst[first]}:")
    cli.main([*args, "--out", str(tmp_path / "out.csv"), "--overwrite"])  # the picture of out.npz
    with (tmp_path / "out.csv").open() as file:
        table = [*csv.DictReader(file)]
    assert [int(row["worst_1"]) for row in table] == worst.tolist()
    share = values.max(axis=1) / values.sum(axis=1)
    np.testing.assert_allclose([float(row["share_1"]) for row in table], share, rtol=1e-3)
    assert (tmp_path / "out.residuals.png").stat().st_size > 1000
    rows = np.load(folder / "test.npy")
    detector = detectors.load(folder / "run/detector")
    expected = explanation.explain(detector, detectors.prepared(detector, rows))
    np.testing.assert_array_equal(values, expected.map)


def test_maps_are_written_block_by_block_for_any_rows(run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    rows, maps = folder / "test.npy", tmp_path / "maps.npy"
    detector = detectors.load(folder / "run/detector")
    expected = detectors.score_maps(detector, np.load(rows))
    monkeypatch.setattr(tuning, "FEED_BYTES", 7 * 4 * expected.shape[1])  # rows in a block
    cli.main(["score", str(folder / "run"), str(rows), "--maps", str(maps)])
    np.testing.assert_array_equal(np.load(maps), expected)
    with pytest.raises(SystemExit):
        cli.main(["score", str(folder / "run"), str(rows), "--maps", str(maps)])
    assert "it exists; add --overwrite" in capsys.readouterr().err
    blind = dataclasses.replace(detector.about.config, score="latent_knn")
    about = dataclasses.replace(detector.about, config=blind)
    detectors.save(tmp_path / "blind", detector._replace(about=about))
    with pytest.raises(UserError, match="use one of mse"):
        score.score_file(tmp_path / "blind", rows, maps=tmp_path / "x.npy")


def test_an_explanation_shows_the_map_of_the_score_or_says_what_it_shows(run, tmp_path):
    detector, rows = detectors.load(run[0] / "run/detector"), np.load(run[0] / "test.npy")
    x, cfg = detectors.prepared(detector, rows), detector.about.config
    for name, of in (("mae", "mae"), ("d_of_x", "mse"), ("mse:max", "mse:max")):
        about = dataclasses.replace(detector.about, config=dataclasses.replace(cfg, score=name))
        found = explanation.explain(detector._replace(about=about), x)
        assert found.map_of == of
        error = np.abs(found.x - found.x_hat)
        np.testing.assert_allclose(
            found.map, error if of == "mae" else error**2, rtol=1e-4, atol=1e-6
        )


def test_a_picture_that_cannot_be_written_is_one_line_and_leaves_no_table(run, tmp_path, capsys):
    (tmp_path / "out.residuals.png").mkdir()
    args = ["score", str(run[0] / "run"), str(run[0] / "test.npy"), "--explain"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*args, "--out", str(tmp_path / "out.csv")])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "out.residuals.png cannot be written" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.residuals.png"]


def test_rows_that_are_not_judged_are_not_explained(run, tmp_path):
    for rows in (np.full((2, 4), np.nan), np.zeros((2, 5)), np.zeros((0, 4)), images(2)):
        np.save(tmp_path / "rows.npy", rows)
        with pytest.raises(UserError):
            score.score_file(run[0] / "run", tmp_path / "rows.npy", explain=True)


@pytest.mark.parametrize("out", ["out.txt", "out", "nowhere/out.csv"])
def test_scores_that_cannot_be_written_are_refused_before_any_work(out, run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["score", "no run", "no rows", "--out", str(tmp_path / out)])
    assert stop.value.code == 2
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_detector_is_found_in_its_run_and_alone(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder / "run" / "detector", tmp_path / "mine")
    for name, at in (("one", folder / "run"), ("other", tmp_path / "mine")):
        score.score_file(at, folder / "test.npy", tmp_path / f"{name}.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


@pytest.mark.parametrize(
    ("rows", "message"),
    [(np.zeros((3, 5)), "takes"), (np.full((3, 4), np.nan), "NaN"), (None, "not a readable")],
)
def test_rows_that_cannot_be_scored(run, rows, message, tmp_path):
    path = tmp_path / "rows.npy"
    if rows is None:
        path.write_text("not an array")
    else:
        np.save(path, rows)
    with pytest.raises(UserError, match=message) as caught:
        score.score_file(run[0] / "run", path)
    assert str(path) in str(caught.value)


def test_a_folder_without_detector_is_one_line(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["score", str(tmp_path), str(run[0] / "test.npy")])
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: no detector in {tmp_path}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code"), [([], 2), (["scor"], 2), (["--help"], 0), (["score", "nowhere", "x.npy"], 2)]
)
def test_wrong_words_end_with_a_hint(args, code, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(args)
    assert exit_.value.code == code
    assert len(capsys.readouterr().err.splitlines()) <= 3


def test_every_registered_name_is_listed(capsys):
    cli.main(["list", "--names"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("npz:PATH", "alocc", "blurred_energy", "mad", "severity"))
