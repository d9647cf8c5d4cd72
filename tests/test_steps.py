"""Scores, decisions and alarms by the step of a series: streamed, calibrated, written, verified."""

import itertools
import json
import re
import subprocess
import sys

import forging
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from jaxae import detectors
from jaxae.cli import main as cli
from jaxae.data.arrayfiles import read_npz
from jaxae.detectors import steps, streams
from jaxae.export import exporting, loader
from jaxae.stats import metrics
from jaxae.stats.intervals import of_clustered_share, of_share


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 80), min_size=1, max_size=30, unique=True),
    st.integers(1, 9),
    st.lists(st.integers(0, 30), max_size=4),
)
def test_the_score_of_a_step_is_the_mean_over_its_windows_however_they_come(start, size, cuts):
    start = np.sort(start)
    values = np.random.default_rng(size).lognormal(0, 9, (len(start), size)).astype(np.float32)
    whole = streams.joined(streams.averaged([(start, values)]))
    held = {s: [] for s in range(99)}
    for first, row in zip(start, values, strict=True):
        for place, value in enumerate(row):
            held[first + place].append(float(value))
    expected = {s: np.float32(sum(found) / len(found)) for s, found in held.items() if found}
    assert dict(zip(whole.step.tolist(), whole.score, strict=True)) == expected
    ends = sorted({min(cut, len(start)) for cut in cuts} | {0, len(start)})
    parts = [(start[a:b], values[a:b]) for a, b in itertools.pairwise(ends)]
    streamed = streams.joined(streams.averaged(iter(parts)))
    for one, other in zip(whole, streamed, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 12))
def test_blocks_are_long_enough_and_cross_no_end(sizes, window):
    gaps = np.cumsum([0, *(size + 1 for size in sizes[:-1])])
    step = np.concatenate([gap + np.arange(size) for gap, size in zip(gaps, sizes, strict=True)])
    found = steps.blocks(step, np.zeros_like(step), window)
    assert found.length == min(2 * window, max(sizes))
    for number in range(found.number.max() + 1):
        inside = step[found.number == number]
        assert len(inside) >= found.length
        assert inside[-1] - inside[0] + 1 == len(inside)
    whole = np.split(found.number, np.cumsum(sizes)[:-1])
    assert all((part >= 0).all() == (len(part) >= found.length) for part in whole)


def state_of(score, block, rule):
    state = {"score": score, "block": block, "length": np.int32(1)}
    return state | {"rule": steps.fitted(state, rule)}


def test_each_block_in_turn_has_an_alarm_as_often_as_alpha_says(detector):
    """Of exchangeable blocks each is as likely the new one, so the shares are exact, not drawn."""
    generator, count, alpha = np.random.default_rng(0), 40, 0.1
    walk = np.abs(np.cumsum(generator.normal(size=(count, 25)), axis=1)).astype(np.float32)
    block = np.repeat(np.arange(count - 1), 25)
    alarms = low = 0
    for new in range(count):
        state = state_of(np.delete(walk, new, axis=0).ravel(), block, f"conformal:{alpha}")
        own = detector._replace(
            places={steps.NAME: state}, decision=detector.decision._replace(rule="conformal:0.1")
        )
        judged = steps.judged(own, walk[new])
        np.testing.assert_array_equal(judged.is_anomaly, judged.p_value <= alpha)
        alarms += judged.is_anomaly.any()
        low += judged.p_value.min() <= 0.5
    assert alarms == alpha * count
    assert low == 0.5 * count
    by_step = state_of(walk.ravel(), np.repeat(np.arange(count), 25), "quantile:0.9")
    assert np.mean(walk > by_step["rule"]["threshold"]) == pytest.approx(0.1)


def test_an_interval_of_clusters_counts_clusters():
    ones = np.ones(40, int)
    hits = (np.arange(40) < 4).astype(int)
    alone, known = of_clustered_share(hits, ones), of_share(4, 40)
    assert alone.low <= known.low
    assert alone.high == pytest.approx(known.high, abs=0.02)
    together = of_clustered_share(20 * hits, 20 * ones)  # a cluster says no more than one trial
    assert together == pytest.approx(alone, abs=0.01)
    assert of_clustered_share(2 * ones, 20 * ones).high < 0.14  # clusters that all agree say more
    assert of_clustered_share(0 * ones, 20 * ones) == of_share(0, 40)
    assert of_clustered_share(ones[:1], 2 * ones[:1]) == (0, 1)


def test_the_peak_of_a_saturated_alarm_is_in_its_middle():
    score = np.float32([0, 2, 9, 9, 9, 9, 9, 2, 0])
    judged = steps.Judged(score, np.ones(9), score > 1)
    (alarm,) = steps.alarms(judged, np.zeros(9, int), 3)
    assert (alarm.start, alarm.end, alarm.peak) == (1, 7, 4)


# As a user would

WINDOW, STEPS = 8, 480


def machines(steps=STEPS, count=2):
    """Machines whose lines take turns, with a gap, and with an anomaly near the end."""
    step, machine = np.divmod(np.arange(steps * count), count)
    generator = np.random.default_rng(0)
    value = np.sin(step / 3 + machine) + 0.05 * generator.normal(size=len(step))
    strange = (step > steps - 60) & (step < steps - 48) & (machine == 1)
    return {
        "machine": np.array(["m0", "m1", "m2"])[machine],
        "time": 60 * step + np.where(step >= steps // 4, 10**5, 0),
        "value": np.where(strange, 3.0, value),
        "label": strange.astype(int),
    }


def write(path, values):
    csv.write_csv(pa.table(values), path)
    return path


def crosses_the_gap(one, other):
    return other["start_time"] - one["end_time"] > 10**4


def said(capsys, *args):
    capsys.readouterr()
    cli.main([*map(str, args)])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    values = machines(steps=2 * STEPS)
    test = np.where(values["time"] >= np.median(values["time"]), "test", "train")
    path = write(folder / "train.csv", values | {"split": test})
    args = f"train --data.name series:{path} --data.group machine --data.window {WINDOW}"
    settings = "--data.stride 3 --train.epochs 2 --score mse --data.valid-fraction 0.3"
    cli.main([*args.split(), *settings.split(), "--run-dir", str(folder / "run")])
    return folder


@pytest.fixture(scope="module")
def detector(folder):
    return detectors.load(folder / "run/detector")


def test_every_line_of_a_file_gets_a_score_and_alarms_are_intervals(folder, capsys, tmp_path):
    values = machines()
    values["machine"][-5:] = "m2"  # a group that is new, and too short for a window
    path = write(tmp_path / "new.csv", values)
    out, alarms = tmp_path / "steps.csv", tmp_path / "alarms.csv"
    text = said(capsys, "score", folder / "run", path, "--out", out, "--intervals", alarms)
    found = csv.read_csv(out).to_pydict()
    names = ["row", "group", "time", "score", "p_value", "threshold", "is_anomaly", "interval"]
    assert [*found] == names
    assert found["row"] == [*range(len(values["value"]))]
    assert found["group"] == values["machine"].tolist()
    assert found["time"] == values["time"].tolist()
    unscored = [row for row, score in enumerate(found["score"]) if score is None]
    assert unscored == [*range(len(found["row"]) - 5, len(found["row"]))]
    assert "5 of 960 steps belong to no window (5 in 1 stretches shorter than a window" in text
    flagged = np.array([flag == 1 for flag in found["is_anomaly"]])
    score = np.array([np.nan if one is None else one for one in found["score"]])
    np.testing.assert_array_equal(flagged, score > found["threshold"][0])
    assert flagged[values["label"] == 1].mean() > 0.8
    lines = csv.read_csv(alarms).to_pylist()
    for number, line in enumerate(lines):
        inside = np.array([one == number for one in found["interval"]])
        assert np.flatnonzero(inside)[[0, -1]].tolist() == [line["start"], line["end"]]
        assert line["steps"] == inside.sum() == (line["end"] - line["start"]) / 2 + 1  # turns
        rows = np.flatnonzero(inside & flagged)
        assert rows[[0, -1]].tolist() == [line["start"], line["end"]]
        assert line["flagged"] == len(rows)
        assert (np.diff(rows) < 2 * WINDOW).all()  # a window holds neighbours
        assert line["peak"] == np.nanargmax(np.where(inside & flagged, score, np.nan))
        assert line["start_time"] == found["time"][line["start"]]
        assert {line["group"]} == {found["group"][row] for row in np.flatnonzero(inside)}
    assert flagged.sum() == sum(line["flagged"] for line in lines)
    for one, other in itertools.pairwise(lines):
        gap = (other["start"] - one["end"]) / 2
        assert one["group"] != other["group"] or gap >= WINDOW or crosses_the_gap(one, other)
    summary = json.loads(said(capsys, "score", folder / "run", path, "--json").splitlines()[-1])
    assert (summary["steps"], summary["unscored"], summary["alarms"]) == (960, 5, len(lines))
    assert [one["peak"] for one in summary["intervals"]] == [line["peak"] for line in lines]


def test_streamed_is_resident_and_alone_is_together(folder, detector, tmp_path, monkeypatch):
    series = np.random.default_rng(1).normal(size=(90, 1))
    start = np.arange(0, 83, 2)
    whole = steps.judge(detector, series, start)
    monkeypatch.setattr(streams, "_WINDOWS", 5)
    for one, other in zip(whole, steps.judge(detector, series, start), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    maps = detectors.score_maps(detector, np.stack([series[s : s + WINDOW] for s in start]))
    expected = streams.joined(streams.averaged([(start, maps)]))
    np.testing.assert_array_equal(whole.score[expected.step], expected.score)
    far = series.copy()
    far[40] = 1e35
    judged = steps.judge(detector, far, start)
    assert np.isfinite(judged.score).all()
    assert judged.is_anomaly[40]
    np.testing.assert_array_equal(judged.score[:32], whole.score[:32])


def test_a_run_records_its_steps_and_their_metrics(folder, detector):
    report = json.loads((folder / "run/report.json").read_bytes())
    stored = read_npz(folder / "run/scores.npz")
    values = machines(steps=2 * STEPS)
    row = stored["step_index"]
    np.testing.assert_array_equal(stored["step_y"], values["label"][row] == 1)
    assert stored["step_y"].sum() == values["label"].sum()
    group = values["machine"][row]
    same = np.diff(stored["step_stretch"]) == 0
    assert (group[1:] == group[:-1])[same].all()
    assert report["n_steps"] == len(row) == len(np.unique(row))
    auroc = metrics.auroc(stored["step_score"], stored["step_y"])
    assert report["step_auroc"] == pytest.approx(float(auroc))
    recall = stored["step_is_anomaly"][stored["step_y"]].mean()
    assert report["step_recall"] == pytest.approx(recall)
    assert report["ranges_found"] == 1
    state = steps.state_of(detector)
    assert report["n_blocks"] == len(np.unique(state["block"][state["block"] >= 0])) > 5
    assert report["block_steps"] == 2 * WINDOW
    assert report["step_false_alarm_rate"] == pytest.approx(0.05, abs=0.01)  # quantile:0.95
    low, high = report["step_false_alarm_rate_interval"]
    assert low < 0.05 < high


def test_labelled_steps_are_evaluated(folder, capsys, tmp_path):
    path = write(tmp_path / "labelled.csv", machines())
    found = json.loads(said(capsys, "evaluate", folder / "run", path, "--json"))
    out = tmp_path / "o.npz"
    cli.main(["score", str(folder / "run"), str(path), "--out", str(out)])
    judged, y = read_npz(out), machines()["label"] == 1
    assert found["n_steps"] == len(y)
    assert found["step_auroc"] == pytest.approx(float(metrics.auroc(judged["score"], y)))
    assert found["step_recall"] == pytest.approx(judged["is_anomaly"][y].mean())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": [1.0]}, "the file has 1 steps in a row, fewer than a window of 8"),
        ({"value": np.arange(7.0)}, "7 steps in a row, fewer than a window of 8"),
        ({"value": [None, *np.arange(20.0)]}, "value (1 row"),
        ({"value": np.arange(20.0), "time": [*range(10), *range(10)]}, "goes back in 1 of 19"),
        ({"other": np.arange(20.0)}, "value"),
    ],
)
def test_files_that_cannot_be_judged_are_one_line(changes, says, folder, capsys, tmp_path):
    path, out = write(tmp_path / "wrong.csv", changes), tmp_path / "out.csv"
    with pytest.raises(SystemExit) as stop:
        said(capsys, "score", folder / "run", path, "--out", out)
    line = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in line
    assert line.count("\n") == 1
    assert not out.exists()


def test_intervals_need_a_detector_that_decides_about_steps(folder, detector, capsys, tmp_path):
    detectors.save(tmp_path / "old", detector._replace(places={}))
    path = write(tmp_path / "new.csv", machines())
    assert "rows are anomalies" in said(capsys, "score", tmp_path / "old", path)  # of windows
    args = ["score", str(tmp_path / "old"), str(path), "--intervals", str(tmp_path / "i.csv")]
    for more, says in (([], "train it again"), (["--explain"], "train it again")):
        with pytest.raises(SystemExit):
            cli.main([*args, *more])
        assert says in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["score", str(folder / "run"), *args[2:], "--explain"])
    assert "--explain judges windows" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["score", str(folder / "run"), str(path), "--fdr", "0.1"])
    assert "steps of a series depend on each other" in capsys.readouterr().err


def test_a_conformal_rule_promises_something_of_blocks_or_is_refused(tmp_path, capsys):
    path = write(tmp_path / "s.csv", {"value": np.sin(np.arange(400) / 3)})
    args = f"train --data.name series:{path} --data.window 8 --train.epochs 1".split()
    with pytest.raises(SystemExit):
        cli.main([*args, "--threshold.rule", "conformal:0.05", "--data.valid-fraction", "0.3"])
    line = capsys.readouterr().err
    assert "with 7 held-out blocks of 16 steps no p-value is below 1/8" in line
    remedy = re.search("train with (--threshold.rule conformal:[0-9.]+), or", line)[1].split()
    run = [*remedy, "--run-dir", str(tmp_path / "run")]
    cli.main([*args, *run, "--data.valid-fraction", "0.3"])
    report = json.loads((tmp_path / "run/report.json").read_bytes())
    assert report["block_false_alarm_rate"] == pytest.approx(1 / 8)
    low, high = report["step_false_alarm_rate_interval"]  # no more steps than blocks are flagged
    assert (low, high) == (0, report["block_false_alarm_rate_interval"][1])
    assert report["step_p_value_flaw"] is None
    assert "promises something of steps, but not of windows" in report["warnings"][-1]


def test_few_held_out_blocks_are_warned_of(folder, tmp_path, capsys):
    path = write(tmp_path / "s.csv", {"value": np.sin(np.arange(400) / 3)})
    args = f"train --data.name series:{path} --data.window 32 --train.epochs 1 --score mse".split()
    cli.main([*args, "--run-dir", str(tmp_path / "run")])
    warned = json.loads((tmp_path / "run/report.json").read_bytes())["warnings"]
    assert "no p-value is below 1/2, and how often" in "".join(warned)
    many = json.loads((folder / "run/report.json").read_bytes())
    assert many["n_blocks"] >= 5
    assert "no p-value" not in "".join(many["warnings"])
    assert not forging.failed(folder / "run")  # nor is anything else amiss


def test_the_figure_of_a_series_shows_its_values_scores_and_alarms(folder, detector):
    run = folder / "run"
    shown, stored = read_npz(run / "arrays/alarms.npz"), read_npz(run / "scores.npz")
    first = shown["edges"][:-1]
    assert shown["edges"][-1] == len(stored["step_score"])
    assert shown["threshold"] == np.float32(steps.decision_of(detector).threshold)
    value = np.asarray(csv.read_csv(folder / "train.csv")["value"])[stored["step_index"]]
    np.testing.assert_allclose(shown["low"][:, 0], np.minimum.reduceat(value, first), atol=1e-5)
    for name in ("y", "is_anomaly"):
        np.testing.assert_array_equal(
            shown[name], np.maximum.reduceat(stored[f"step_{name}"], first)
        )
    assert (run / "figures/alarms.png").is_file()


@pytest.mark.slow
def test_the_page_of_a_series_has_its_alarms(folder):
    cli.main(["report", str(folder / "run")])
    text = (folder / "run/report.html").read_text()
    assert "<h2>Alarms by step</h2>" in text
    assert 'id="step-threshold"' in text


@pytest.mark.slow
@pytest.mark.parametrize("is_mapped", [True, False])
def test_an_export_judges_steps_as_the_run_does(is_mapped, folder, detector, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "is_mapped", lambda cfg: is_mapped)
    exporting.write(folder / "run/detector", tmp_path / "d.zip")
    exported = loader.load(tmp_path / "d.zip")
    series = np.random.default_rng(2).normal(size=120).cumsum()
    series[50] = 1e33
    start = np.union1d(np.arange(0, 113, 3), 112)
    expected = steps.judge(detector, series[:, None], start)
    for judged in (exported.score_steps(series), exported.score_steps(series[:, None])):
        for one, other in zip(judged, expected, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    at_alpha = exported.score_steps(series, 0.2)
    np.testing.assert_array_equal(at_alpha.is_anomaly, expected.p_value <= 0.2)
    for wrong, alpha, says in ((series[:7], None, "8 steps or more"), (series, 0.01, "too low")):
        with pytest.raises(loader.ExportError, match=says):
            exported.score_steps(wrong, alpha)
    np.save(tmp_path / "s.npy", series)
    out = tmp_path / "out.csv"
    subprocess.run(
        [sys.executable, tmp_path / "d.zip", tmp_path / "s.npy", "--series", "--out", out],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    lines = out.read_text().splitlines()[1:]
    assert [np.float32(line.split(",")[1]) for line in lines] == expected.score.tolist()
