"""Runs on rows without labels: what is reported instead of metrics, and what is refused."""

import dataclasses
import json
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv, parquet

from jaxae import data, detectors, scoring
from jaxae.cli import main as cli
from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.export import card
from jaxae.reports import comparison, listing, pages, unlabelled
from jaxae.stats import intervals
from jaxae.stats.conformal import fpr_band, rank_band
from jaxae.storage import disk, logs
from jaxae.types import Decision
from jaxae.workflows import experiment, protocol, verification

STRANGE = 17  # the row that differs from all others


def rows(n=120):
    x = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)
    x[STRANGE] += 12
    return x


def configured(folder, **changes):
    parts = {
        "name": "mine",
        "method": "dense",
        "model": ModelConfig(latent=2, hidden=(8,), output_activation="linear"),
        "train": TrainConfig(epochs=2, batch_size=32, monitor=True),
        "run_dir": str(folder / "run"),
    }
    cfg = ExperimentConfig(**parts | changes)
    return edited(cfg, name=f"npz:{folder / 'x.npz'}", scale="standard")


def edited(cfg, **settings):
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **settings))


class Kept(logs.Logger):
    def media(self, epoch, media):
        self.shown = media


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabelled")
    np.savez(folder / "x.npz", X=rows())
    logger = Kept()
    return folder / "run", experiment.run(configured(folder), [logger]), logger.shown


def strangest(report):
    kinds = report["strangest_training_rows"], report["strangest_held_out_rows"]
    (first, one), (second, other) = (next(iter(kind.items())) for kind in kinds)
    return first if one > other else second


def test_no_number_of_the_report_needs_the_truth(run, capsys):
    folder, report, _ = run
    assert report["labelled"] is False
    assert not {"auroc", "f1", "fpr", "precision", "n_anomaly", "auroc_interval"} & report.keys()
    assert f"jaxae evaluate {folder} FILE" in report["no_metrics"]
    assert report == json.loads((folder / "report.json").read_bytes())
    assert strangest(report) == f"row {STRANGE}"
    assert report["false_alarm_rate"] == pytest.approx((1 + 0.05 * 11) / 13)
    assert 0 < report["pseudo_auroc"] <= 1
    stored = read_npz(folder / "scores.npz")
    assert not {"test_y", "test_class_id"} & stored.keys()
    np.testing.assert_array_equal(stored["test"], stored["valid"])


def test_epochs_are_monitored_without_labels(run):
    folder, report, _ = run
    for line in disk.read_metrics(folder / "metrics.jsonl"):
        assert 0 <= line["pseudo_auroc"] <= 1
        assert not [name for name in line if name.startswith("test_")]
    assert "selection" not in report


def test_every_reader_knows_that_there_are_no_labels(run, tmp_path):
    folder, _, shown = run
    assert "held_out_score" in shown.histograms
    assert not {"normal_score", "anomaly_score"} & shown.histograms.keys()
    assert shown.tables["test"].keys() == {"id", "score", "p_value", "is_anomaly"}
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == [
        "loss_curves", "reconstructions", "score_histograms",
    ]  # fmt: skip
    html = pages.write(folder).read_text()
    assert f"row {STRANGE}" in html
    for word in ("AUROC</", "ROC curve", "Recall", "truth"):
        assert word not in html
    for word in ("Share of held-out rows flagged", "Highest scores", "pseudo-anomalies"):
        assert word in html
    (listed,) = listing.finished(folder.parent)
    assert "no labels" in listing.table([listed])
    assert all(check.ok for check in verification.verify(folder))
    with pytest.raises(UserError, match=r"no labels.*jaxae evaluate"):
        comparison.compare(folder, folder)
    about = card.text(card.make(detectors.load(folder / "detector"), folder))
    assert "## Without labels" in about
    assert "false_alarm_rate" in about
    assert "| auroc" not in about


def test_reports_of_older_versions_are_labelled(run):
    folder, report, _ = run
    assert pages.single.files.is_labelled(folder) is False
    old = {name: value for name, value in report.items() if name != "labelled"}
    disk.write_json(folder / "report.json", old)
    assert pages.single.files.is_labelled(folder) is True
    disk.write_json(folder / "report.json", report)


def test_what_needs_labels_is_refused_before_training(tmp_path):
    np.savez(tmp_path / "x.npz", X=rows())
    oracle = TrainConfig(epochs=2, batch_size=32, select="oracle", oracle=True)
    for changes, says in (
        ({"train": oracle}, "train.select oracle .* these rows have none; select valid_loss"),
        ({"studies": ("costs",)}, "study costs .* have no labels; leave it out"),
        ({"studies": ("epoch_scores",)}, "study epoch_scores .* have no labels; leave it out"),
    ):
        with pytest.raises(UserError, match=says):
            experiment.run(configured(tmp_path, **changes))
    assert not (tmp_path / "run").exists()
    parts = {"name": "p", "method": "dense", "run_dir": str(tmp_path / "run")}
    named = f"npz:{tmp_path / 'x.npz'}"
    for run_grid, cfg in (
        (protocol.run, edited(ProtocolConfig(**parts), name=named)),
        (protocol.run, edited(ProtocolConfig(classes=(0,), **parts), name=named)),
        (protocol.cross.run, edited(CrossConfig(**parts), name=named)),
    ):
        with pytest.raises(UserError, match=r"labels.*jaxae train --data.name npz:"):
            run_grid(cfg)
    assert not (tmp_path / "run").exists()


def test_data_of_a_file_without_labels(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", X=rows(), other=np.arange(120))
    cli.main(["data", str(tmp_path / "x.npz")])
    shown = capsys.readouterr().out
    assert "no labels: all 120 rows are taken as normal, 108 to train on, 12 held out" in shown
    assert "not read: other" in shown
    assert "class" not in shown.replace("classes (y)", "")


# False alarms


@pytest.mark.parametrize("rule", ["quantile:0.95", "quantile:0.5", "max", "conformal:0.2"])
def test_the_rate_of_false_alarms_is_that_of_new_rows(rule):
    """Scores are uniform, so a threshold t flags the share 1 - t of new rows."""
    drawn = np.random.default_rng(0).random((400, 19), np.float32)
    decisions = [scoring.fit_rule(rule, scores) for scores in drawn]
    said = [unlabelled.false_alarms(decision, drawn[0], False) for decision in decisions]
    true = np.array([1 - decision.threshold for decision in decisions])
    error = true.std() / np.sqrt(len(true))
    assert abs(said[0]["false_alarm_rate"] - true.mean()) < 4 * error
    low, high = said[0]["false_alarm_rate_interval"]
    covered = np.mean((low <= true) & (true <= high))
    assert 0.92 <= covered <= 1
    if not rule.startswith("quantile"):
        assert covered <= 0.98


def test_the_rate_of_other_rules_is_a_share_of_rows():
    scores = np.arange(20, dtype=np.float32)
    decision = Decision("mean_std:1", {"threshold": np.float32(16.5)}, scores)
    said = unlabelled.false_alarms(decision, scores, False)
    assert said["false_alarm_rate"] == 3 / 20
    assert said["false_alarm_rate_interval"] == list(intervals.of_share(3, 20))
    assert "also set the threshold" in said["false_alarm_basis"]
    held_out = np.arange(10, 20, dtype=np.float32)
    said = unlabelled.false_alarms(decision, held_out, True)
    assert said["false_alarm_rate"] == 3 / 10
    assert "held-out rows" in said["false_alarm_basis"]


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson():
    from scipy.stats import binomtest

    for hits, trials in ((0, 10), (3, 20), (20, 20), (1, 1)):
        exact = binomtest(hits, trials).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(intervals.of_share(hits, trials), exact, atol=1e-9)


def test_a_band_of_a_whole_rank_is_that_of_alpha():
    assert rank_band(99, 5) == fpr_band(99, 0.05)
    between, above, below = (rank_band(99, rank) for rank in (4.5, 4, 5))
    assert between == (above.low, below.high)


@pytest.mark.parametrize("rule", ["quantile:0.9", "conformal:0.1", "max", "mean_std:1"])
def test_contaminated_calibration_rows_raise_the_threshold(rule):
    """With m anomalies on top, the threshold of the others and the bound on false alarms hold."""
    n, rates = 40, {}
    for scores in np.random.default_rng(1).random((300, n)).astype(np.float32):
        for m in (1, 2, 4):
            scores[:m] = 2  # anomalies
            decision = scoring.fit_rule(rule, scores)
            said = unlabelled.contaminated(decision)[f"{m} of {n} rows"]
            clean = scoring.fit_rule(rule, np.sort(scores)[: n - m]).threshold
            assert said["clean_threshold"] == clean
            assert clean <= decision.threshold
            flagged = max(1 - decision.threshold, 0)
            rates.setdefault(m, []).append((flagged, said["false_alarm_rate_at_most"]))
    if rule != "mean_std:1":
        for m, pairs in rates.items():
            true, most = np.mean(pairs, axis=0)
            assert true <= most + 0.005
            if scoring.rule(rule).rank(n) >= m + 1:  # the threshold lies among clean scores
                assert true == pytest.approx(most, abs=0.01)


def test_few_calibration_rows_say_little_and_do_not_fail():
    decision = scoring.fit_rule("conformal:0.5", np.float32([1, 2]))
    assert unlabelled.contaminated(decision) == {
        "1 of 2 rows": {"clean_threshold": 1.0, "false_alarm_rate_at_most": 0.5}
    }
    decision = scoring.fit_rule("conformal:0.2", np.arange(4, dtype=np.float32))
    assert unlabelled.contaminated(decision)["1 of 4 rows"]["clean_threshold"] is None
    assert unlabelled.contaminated(scoring.fit_rule("max", np.float32([1]))) == {}


def test_windows_are_named_by_their_first_step_in_the_file(tmp_path):
    turns = {"value": np.arange(200.0), "machine": np.array(["a", "b"] * 100)}
    csv.write_csv(pa.table(turns), tmp_path / "turns.csv")
    cfg = DataConfig(name=str(tmp_path / "turns.csv"), group="machine", window=10, stride=10)
    made = data.load(cfg)
    for split in (made.train, made.valid):
        first = [f"step {row[0, 0]:.0f}" for row in np.asarray(split.x)]
        assert first == [unlabelled.called(int(i), made.names) for i in split.id]


# Files of seven kinds


def picture_folder(path):
    path.mkdir(parents=True)
    for i, image in enumerate(np.random.default_rng(0).integers(90, 160, (40, 12, 12), np.uint8)):
        Image.fromarray(image).save(path / f"{i:02}.png")


def table(path):
    columns = pa.table({f"c{i}": column for i, column in enumerate(rows().T)})
    (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(columns, path)


def steps(path):
    csv.write_csv(pa.table({"value": np.sin(np.arange(1500) / 9)}), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "args"),
    [
        ("rows.csv", table, []),
        ("rows.parquet", table, []),
        ("rows.npy", lambda path: np.save(path, rows()), []),
        ("rows.npz", lambda path: np.savez(path, x_train=rows()), []),
        ("flat", picture_folder, []),
        ("below", lambda path: picture_folder(path / "good"), []),
        ("steps.csv", steps, ["--data.window", "32"]),
    ],
)
def test_files_without_labels_are_trained_on_reported_and_scored(
    name, write, args, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    clock = time.process_time()  # of this process: others may run too
    cli.main(["train", "--data.name", name, "--run-dir", "run", *args])
    cli.main(["report", "run"])
    cli.main(["score", "run", name, "--out", "judged.csv"])
    assert time.process_time() - clock < 60
    judged = csv.read_csv("judged.csv").to_pydict()
    report = json.loads((tmp_path / "run/report.json").read_bytes())
    assert report["labelled"] is False
    shown = capsys.readouterr().out
    assert "No labels, so no AUROC or other metrics" in shown
    if name.startswith("rows"):
        assert np.argmax(judged["score"]) == STRANGE
        assert strangest(report) == f"row {STRANGE}"
    named = {**report["strangest_training_rows"], **report["strangest_held_out_rows"]}
    if name == "flat":
        assert named.keys() <= set(judged["source"])
