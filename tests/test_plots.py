import itertools
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from jaxae.errors import UserError
from jaxae.reports import plots, studies
from jaxae.reports.plots import curves, detection, heatmaps, series, style
from jaxae.reports.plots import images as mosaic

RNG = np.random.default_rng(0)
THRESHOLD = 0.5
FIGURES = plots.FIGURES | studies.figures()
# As long as an experiment's names get: the title lines must still fit.
REPORT = {
    "name": "fmnist_one_class",
    "dataset": "fashion_mnist",
    "score": "latent_mahalanobis",
    "threshold_rule": "mean_std(1.0)",
    "threshold": THRESHOLD,
}


def images(*shape):
    return RNG.random((*shape, 8, 8, 1), np.float32)


def verdict_rows(x):
    score = np.linspace(0, 1, len(x))
    return {
        "x": x,
        "x_hat": x * 0.9,
        "score": score,
        "threshold": np.float32(THRESHOLD),
        "is_anomaly": score > THRESHOLD,
    }


def kinds(count):
    return np.resize(["normal", "rotation:90", "class 3"], count)


def stepwise(steps=1500, seed=0):
    """A series in two stretches, in columns; its highest score is at step 700."""
    rng = np.random.default_rng(seed)
    score, step = rng.random(steps).astype(np.float32), np.arange(steps)
    score[700] = 9
    index, y = step + 50 * (step >= steps // 2), (step > 690) & (step < 720)
    values = rng.normal(size=(steps, 2)).astype(np.float32)
    return series.condensed(score, score > THRESHOLD, THRESHOLD, index, y, values)


CLASS_ID = np.arange(40) % 10
ARRAYS = {
    "reconstructions": verdict_rows(images(6)) | {"y": np.arange(6) > 2},
    "latent_scatter": {
        "z": RNG.normal(size=(40, 2)),
        "class_id": CLASS_ID,
        "centroid_images": images(10),
        "centroids": RNG.normal(size=(10, 2)),
        "classes": np.arange(10),
    },
    "latent_grid": {"images": images(5, 5), "x_range": [-2, 2], "y_range": [-4, 4]},
    "tsne": {"points": RNG.normal(size=(40, 2)), "class_id": CLASS_ID},
    "interpolation": {"images": images(10), "ends": images(2), "class_id": [3, 8]},
    "denoising": {
        "clean": images(4),
        "noisy": images(4),
        "denoised": images(4),
        "noise_std": 0.2,
    },
    "verdicts": verdict_rows(images(3)) | {"kind": kinds(3)},
    "residuals": verdict_rows(images(3))
    | {"map": images(3), "map_of": np.array("mae"), "kind": kinds(3)},
    "heatmaps": verdict_rows(images(3))
    | {"map": RNG.random((3, 8, 8)), "kind": kinds(3), "mask": np.eye(8)[None].repeat(3, 0) > 0}
    | {"place_threshold": 0.4, "flagged": np.eye(8)[None, ::-1].repeat(3, 0) > 0},
    "alarms": stepwise(),
    "epoch_grid": {"epochs": [1, 5], "x": images(4), "x_hat": images(2, 4)},
    "loss_histograms": {"train": RNG.random(50), "valid": RNG.random(30)},
    "severity": {
        "names": ["rotation", "salt_and_pepper"],
        "severities": [[0, 45, 90], [0, 0.1, 0.2]],
        "auroc": [[0.5, 0.8, 0.9], [0.5, np.nan, 1]],
        "flagged": [[0, 0.5, 0.8], [0, 0.4, 1]],
        "unit": ["degrees", "share of pixels"],
        "examples": images(2, 3),
    },
    "beats": {
        "normal": RNG.random(20),
        "abnormal": RNG.random(20),
        "normal_hat": RNG.random(20),
        "abnormal_hat": RNG.random(20),
    },
}
NOT_REQUIRED = {
    ("severity", "examples"),
    *(("heatmaps", name) for name in ("mask", "place_threshold", "flagged")),
    *(("alarms", name) for name in ("y", "low", "high")),
}
SCORES = {
    "train": 0.4 * RNG.random(40),
    "valid": 0.4 * RNG.random(20),
    "test": np.concatenate([0.6 * RNG.random(30), 0.3 + 0.7 * RNG.random(20)]),
    "test_y": np.arange(50) >= 30,
    "test_class_id": np.arange(50) % 10,
    "test_id": np.arange(50),
}
SCORES["test_is_anomaly"] = SCORES["test"] > THRESHOLD


def write_metrics(run_dir, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run_dir / "metrics.jsonl").write_text(text)


def write_report(run_dir, **changes):
    (run_dir / "report.json").write_text(json.dumps(REPORT | changes))


def epoch_rows(decay=2.0):
    return [
        {"epoch": e, "loss": decay**-e, "valid_loss": 1.1 * decay**-e, "steps_per_s": 9.0}
        for e in range(1, 6)
    ]


MONITORED = [row | {"test_auroc": 0.6, "pseudo_auroc": 0.7} for row in epoch_rows()]
_BY = {"last": 5, "valid_loss": 5, "pseudo_anomalies": 2, "oracle": 3}
SELECTED = {
    "selected_by": "test labels (oracle)",
    "selected_epoch": 3,
    "selection": {name: {"epoch": e, "auroc": 0.5} for name, e in _BY.items()} | {"gap": 0.0},
}


def write_arrays(run_dir, name, content):
    (run_dir / "arrays").mkdir(exist_ok=True)
    np.savez(run_dir / "arrays" / f"{name}.npz", **content)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "full"
    folder.mkdir()
    write_metrics(folder, MONITORED)
    write_report(folder, **SELECTED)
    np.savez(folder / "scores.npz", **SCORES)
    for name, content in ARRAYS.items():
        write_arrays(folder, name, content)
    return folder


@pytest.fixture(scope="module")
def drawn(run_dir):
    return plots.draw(run_dir, FIGURES)


def check_picture(path):
    """A PNG of a sensible size, not blank, with nothing that reaches (is cut off at) its border."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert path.stat().st_size > 3000
    assert all(150 <= side <= 2000 for side in pixels.shape)
    assert pixels.std() > 5
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()
    return pixels.shape[::-1]


def test_draw_returns_every_figure_of_the_registry_and_leaves_no_other_file(run_dir, drawn):
    assert [path.stem for path in drawn] == list(FIGURES)
    assert {*drawn} == {*(run_dir / "figures").iterdir()}


def test_a_run_has_five_figures_and_no_study_has_one_of_the_same_name():
    assert set(plots.FIGURES) == {
        "loss_curves",
        "selection",
        "score_histograms",
        "roc_pr",
        "precision_recall_threshold",
    }
    titles = [title for study in studies.STUDIES.values() for title in study.figures]
    assert len({*titles, *plots.FIGURES}) == len(titles) + len(plots.FIGURES)


def test_only_the_figures_of_every_run_are_drawn_unless_others_are_named(run_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("figures"))
    assert [path.stem for path in plots.draw(folder)] == list(plots.FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_picture_is_whole(name, run_dir, drawn):
    size = check_picture(run_dir / "figures" / f"{name}.png")
    inches = FIGURES[name].draw(run_dir).get_size_inches()
    assert size == tuple((inches * 120 + 1e-6).astype(int))


def test_a_figure_of_measured_size(drawn):
    # 12 images of 0.7 inches and two borders of 0.1 inches, at 120 dots per inch
    path = next(path for path in drawn if path.stem == "interpolation")
    width, _ = check_picture(path)
    assert width == pytest.approx((12 * 0.7 + 0.2) * 120, abs=12)


def test_only_figures_whose_files_exist_are_drawn(tmp_path):
    assert plots.draw(tmp_path, FIGURES) == []
    write_metrics(tmp_path, epoch_rows())
    np.savez(tmp_path / "scores.npz", **SCORES)  # without report.json there is no threshold
    assert [path.stem for path in plots.draw(tmp_path, FIGURES)] == ["loss_curves"]


def test_an_absent_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        plots.draw(tmp_path / "nowhere")


REQUIRED = [
    (name, key)
    for name, content in ARRAYS.items()
    for key in content
    if (name, key) not in NOT_REQUIRED
]


@pytest.mark.parametrize(("name", "key"), REQUIRED)
def test_a_missing_array_is_named(name, key, tmp_path):
    write_arrays(tmp_path, name, {k: v for k, v in ARRAYS[name].items() if k != key})
    with pytest.raises(UserError, match=rf"{name}\.npz lacks {key};"):
        plots.draw(tmp_path, FIGURES)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", ["cut", "text", "object"])
def test_a_damaged_array_file_is_named(name, damage, tmp_path):
    write_arrays(tmp_path, name, ARRAYS[name])
    path = tmp_path / "arrays" / f"{name}.npz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not an archive")
    else:
        key = next(iter(ARRAYS[name]))
        np.savez(path, **ARRAYS[name] | {key: np.array([{}], dtype=object)})
    with pytest.raises(UserError, match=rf"{name}\.npz cannot be read"):
        plots.draw(tmp_path, FIGURES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no epochs"),
        ('{"epoch": 1, "loss": 1}\n{"epo\n', "line 2, is not a JSON object"),
        ('{"loss": 1}\n', "line 1, has no epoch"),
        ('{"epoch": 1', "holds no epochs"),
        ("[1]\n", "line 1, is not a JSON object"),
        ('{"epoch": 1}\n', "holds no losses"),
    ],
)
def test_damaged_metrics_are_named(text, message, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=rf"metrics\.jsonl.*{message}"):
        plots.draw(tmp_path)


def test_an_interrupted_last_line_is_left_out(tmp_path):
    write_metrics(tmp_path, epoch_rows())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "lo')
    (ax,) = curves.loss_curves(tmp_path).axes
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.full(50, np.nan)}, "test is nan in row 0"),
        ({"test_y": np.arange(3) > 1}, r"\(50,\) and \(3,\)"),
        ({"test_is_anomaly": np.arange(3) > 1}, r"\(50,\) and \(3,\)"),
    ],
)
def test_impossible_scores_are_named(change, message, tmp_path):
    write_report(tmp_path)
    np.savez(tmp_path / "scores.npz", **SCORES | change)
    with pytest.raises(UserError, match=rf"scores\.npz.*{message}"):
        plots.draw(tmp_path)


def test_a_report_without_threshold_is_named(tmp_path):
    np.savez(tmp_path / "scores.npz", **SCORES)
    (tmp_path / "report.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match=r"report\.json lacks threshold"):
        plots.draw(tmp_path)


def test_a_failed_write_keeps_the_old_picture_and_nothing_else(run_dir, tmp_path, monkeypatch):
    def broken(canvas, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    figure = FIGURES["denoising"].draw(run_dir)
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", broken)
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        style.save(figure, tmp_path / "a.png")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_threads_draw_the_same_pictures(run_dir, drawn, tmp_path):
    names = ["interpolation", "verdicts", "precision_recall_threshold"] * 2

    def again(task):
        i, name = task
        return style.save(FIGURES[name].draw(run_dir), tmp_path / f"{i}.png").read_bytes()

    with ThreadPoolExecutor(3) as pool:
        pictures = list(pool.map(again, enumerate(names)))
    assert pictures == [(run_dir / "figures" / f"{name}.png").read_bytes() for name in names]


def test_neither_jax_nor_pyplot_is_imported(run_dir):
    script = f"""
import sys
from pathlib import Path
from jaxae.reports import plots
assert "matplotlib" not in sys.modules and "sklearn" not in sys.modules
run_dir = Path({str(run_dir)!r})
for draw in (plots.FIGURES["loss_curves"].draw, plots.STUDY_FIGURES["verdicts"].draw):
    assert draw(run_dir) is not None
assert "matplotlib" in sys.modules
assert not {{"jax", "flax", "matplotlib.pyplot"}} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("decay", "scale"), [(2.0, "log"), (1.1, "linear")])
def test_the_loss_axis_is_logarithmic_when_it_spans_decades(decay, scale, tmp_path):
    write_metrics(tmp_path, epoch_rows(decay))
    (ax,) = curves.loss_curves(tmp_path).axes
    assert ax.get_yscale() == scale
    assert [line.get_label() for line in ax.lines] == ["train", "validation"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), decay ** -np.arange(1.0, 6))


def test_partial_losses_and_monitors_get_their_own_panels(tmp_path):
    extra = {"loss_refiner": 1.0, "loss_discriminator": 0.5}
    rows = [row | extra for row in epoch_rows()]
    rows[-1] |= {"test_auroc": 0.9, "test_equal_error_f1": 0.8, "pseudo_auroc": 0.7}
    write_metrics(tmp_path, rows)
    _, partial, monitored = curves.loss_curves(tmp_path).axes
    assert [line.get_label() for line in partial.lines] == ["refiner", "discriminator"]
    assert [list(line.get_ydata()) for line in monitored.lines] == [[0.9], [0.8], [0.7]]


def test_score_histograms_show_shares_and_the_threshold(run_dir):
    from matplotlib.patches import Polygon

    (ax,) = detection.score_histograms(run_dir).axes
    bars = [c for c in ax.containers if not isinstance(c[0], Polygon)]
    assert len(bars) == 2
    for group in bars:
        assert sum(bar.get_height() for bar in group) == pytest.approx(1)
    assert [line.get_xdata()[0] for line in ax.lines] == [THRESHOLD]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any("anomaly, test (n = 20)" in text for text in legend)


def test_score_histograms_without_training_scores(tmp_path):
    write_report(tmp_path)
    np.savez(tmp_path / "scores.npz", **{k: v for k, v in SCORES.items() if k != "train"})
    (ax,) = detection.score_histograms(tmp_path).axes
    assert "train" not in " ".join(text.get_text() for text in ax.get_legend().get_texts())


def test_roc_and_pr_state_the_areas_and_the_operating_point(run_dir):
    roc, pr = detection.roc_and_precision_recall(run_dir).axes
    y, scores = SCORES["test_y"], SCORES["test"]
    area = {line.get_label() for ax in (roc, pr) for line in ax.lines}
    assert f"AUROC = {roc_auc_score(y, scores):.4f}" in area
    assert f"AP = {average_precision_score(y, scores):.4f}" in area
    flagged = SCORES["test_is_anomaly"]
    hits = (flagged & y).sum()
    (dot,) = [line for line in roc.lines if line.get_marker() == "o"]
    assert dot.get_xydata()[0] == pytest.approx([(flagged & ~y).sum() / 30, hits / 20])
    (dot,) = [line for line in pr.lines if line.get_marker() == "o"]
    assert dot.get_xydata()[0] == pytest.approx([hits / 20, hits / flagged.sum()])


def test_the_operating_point_is_what_was_decided_whatever_the_threshold_says(tmp_path):
    write_report(tmp_path)
    y, flagged = SCORES["test_y"], ~SCORES["test_is_anomaly"]
    np.savez(tmp_path / "scores.npz", **SCORES | {"test_is_anomaly": flagged})
    roc, pr = detection.roc_and_precision_recall(tmp_path).axes
    (at_roc,), (at_pr,) = (
        [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "o"] for ax in (roc, pr)
    )
    assert at_roc == pytest.approx([flagged[~y].mean(), flagged[y].mean()])
    assert at_pr == pytest.approx([flagged[y].mean(), y[flagged].mean()])


def test_where_nothing_is_flagged_there_is_no_precision_to_show(tmp_path):
    write_report(tmp_path)
    np.savez(tmp_path / "scores.npz", **SCORES | {"test_is_anomaly": np.zeros(50, bool)})
    roc, pr = detection.roc_and_precision_recall(tmp_path).axes
    (dot,) = [line.get_xydata()[0] for line in roc.lines if line.get_marker() == "o"]
    assert dot.tolist() == [0, 0]
    assert not [line for line in pr.lines if line.get_marker() == "o"]


def test_scores_without_decisions_are_named(tmp_path):
    write_report(tmp_path)
    known = {name: values for name, values in SCORES.items() if name != "test_is_anomaly"}
    np.savez(tmp_path / "scores.npz", **known)
    with pytest.raises(UserError, match=r"scores\.npz lacks test_is_anomaly; run the experiment"):
        plots.draw(tmp_path)


def test_one_class_has_histograms_but_no_curves(tmp_path):
    write_report(tmp_path)
    np.savez(tmp_path / "scores.npz", **SCORES | {"test_y": np.zeros(50, bool)})
    assert [path.stem for path in plots.draw(tmp_path)] == ["score_histograms"]


def test_precision_and_recall_against_the_threshold(run_dir):
    (ax,) = detection.precision_recall_vs_threshold(run_dir).axes
    precision, recall = ax.lines[:2]
    y, scores = SCORES["test_y"], SCORES["test"]
    at = precision.get_xdata()
    flagged = scores >= at[:, None]
    np.testing.assert_allclose(recall.get_ydata(), (flagged & y).sum(1) / y.sum())
    np.testing.assert_allclose(precision.get_ydata(), (flagged & y).sum(1) / flagged.sum(1))


def test_loss_histograms_mark_mean_and_median(run_dir):
    train, valid = FIGURES["loss_histograms"].draw(run_dir).axes
    for ax, key in ((train, "train"), (valid, "valid")):
        losses = ARRAYS["loss_histograms"][key]
        marks = [line.get_xdata()[0] for line in ax.lines]
        assert marks == pytest.approx([losses.mean(), np.median(losses)])
    assert train.get_xlim() == valid.get_xlim()


def test_a_verdict_says_what_was_decided_and_how_the_score_stands_to_the_threshold():
    is_anomaly = [True, False, True, False]
    data = {"score": [0.6, 0.5, 0.5, 0.6], "threshold": 0.5, "is_anomaly": is_anomaly}
    assert [style.verdict(data, i) for i in range(4)] == [
        ("Anomaly (0.6 > 0.5)", style.ANOMALY),
        ("Normal (0.5 ≤ 0.5)", style.NORMAL),
        ("Anomaly (0.5 ≤ 0.5)", style.ANOMALY),
        ("Normal (0.6 > 0.5)", style.NORMAL),
    ]
    assert style.ANOMALY != style.NORMAL


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (1, (8, 8, 1)),
        (9, (8, 8, 3)),
        (2, (4, 4, 8)),
        (1, (6, 10, 1)),
        (5, (20, 1)),
        (1, (20, 2)),
        (2, (7,)),
    ],
)
@pytest.mark.parametrize("contrary", [False, True])
def test_rows_of_any_shape_have_verdicts_and_reconstructions(count, shape, contrary, tmp_path):
    rows = verdict_rows(RNG.random((count, *shape), np.float32))
    rows["is_anomaly"] ^= contrary  # what was decided counts, not the threshold
    write_report(tmp_path)
    write_arrays(tmp_path, "verdicts", rows | {"kind": kinds(count)})
    residual = np.square(rows["x"] - rows["x_hat"])
    write_arrays(
        tmp_path, "residuals", rows | {"kind": kinds(count), "map": residual, "map_of": "mse"}
    )
    write_arrays(tmp_path, "reconstructions", rows | {"y": np.arange(count) > 3})
    names = ("reconstructions", "verdicts", "residuals")
    figures = [FIGURES[name].draw(tmp_path) for name in names]
    for i, figure in enumerate(figures):
        check_picture(style.save(figure, tmp_path / f"{i}.png"))
    words = [ax.get_title("left") for ax in figures[1].axes]
    flagged = (rows["score"] > THRESHOLD) ^ contrary
    assert sum("Anomaly (" in word for word in words) == flagged.sum()
    assert sum("Normal (" in word for word in words) == (~flagged).sum()


def test_error_is_filled_between_a_beat_and_its_reconstruction(run_dir):
    both, normal, abnormal = FIGURES["beats"].draw(run_dir).axes
    assert len(both.lines) == 2
    for ax, name in ((normal, "normal"), (abnormal, "abnormal")):
        x, x_hat = ARRAYS["beats"][name], ARRAYS["beats"][f"{name}_hat"]
        (filled,) = ax.collections
        corners = filled.get_paths()[0].vertices
        assert corners[:, 1].max() == pytest.approx(max(x.max(), x_hat.max()))
        assert corners[:, 1].min() == pytest.approx(min(x.min(), x_hat.min()))
        assert f"{np.abs(x - x_hat).mean():.3g}" in ax.get_title("left")


def test_mosaic_puts_each_image_in_its_cell():
    pictures = mosaic.rgb(images(2, 3))
    whole = mosaic.mosaic(pictures, 2)
    assert whole.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    for r in range(2):
        for c in range(3):
            cell = whole[2 + 10 * r : 10 + 10 * r, 2 + 10 * c : 10 + 10 * c]
            np.testing.assert_array_equal(cell, pictures[r, c])
    np.testing.assert_array_equal(mosaic.centres(3, 8, 2), [5.5, 15.5, 25.5])


def test_rgb_keeps_the_fixed_range():
    gray = mosaic.rgb(np.array([-1.0, 0.0, 0.5, 1.0, 2.0]).reshape(5, 1, 1, 1))
    np.testing.assert_array_equal(gray[:, 0, 0, 0], [0, 0, 128, 255, 255])
    assert gray.shape == (5, 1, 1, 3)


def test_latent_grid_centres_the_outer_images_on_the_range_with_y_upwards(run_dir):
    (ax,) = FIGURES["latent_grid"].draw(run_dir).axes
    (picture,) = ax.images
    assert picture.get_extent() == [-2.5, 2.5, -5, 5]
    assert picture.origin == "upper"  # the first row of images lies at the largest y
    top_left = np.asarray(picture.get_array())[:8, :8]
    np.testing.assert_array_equal(top_left, mosaic.rgb(ARRAYS["latent_grid"]["images"][0, 0]))


def test_each_class_keeps_one_colour(run_dir):
    from matplotlib.colors import to_hex

    ax = FIGURES["tsne"].draw(run_dir).axes[0]
    (points,) = ax.collections
    colour_of = {line.get_label(): to_hex(line.get_color()) for line in ax.lines}
    assert len(set(colour_of.values())) == 10
    stored = ARRAYS["tsne"]["points"]
    for at, colour in zip(points.get_offsets(), points.get_facecolors(), strict=True):
        class_id = CLASS_ID[np.abs(stored - at).sum(1).argmin()]
        assert to_hex(colour) == colour_of[str(class_id)]


def test_severity_without_examples_has_no_example_picture(tmp_path):
    content = {k: v for k, v in ARRAYS["severity"].items() if k != "examples"}
    write_arrays(tmp_path, "severity", content)
    assert [path.stem for path in plots.draw(tmp_path, FIGURES)] == ["severity"]


def test_the_epochs_of_four_choices_are_marked_and_an_oracle_is_named(run_dir, tmp_path):
    figure = curves.selection(run_dir)
    (legend,) = figure.legends
    words = " ".join(text.get_text() for text in legend.get_texts())
    for name, epoch in (("last epoch", 5), ("pseudo-anomalies", 2), ("oracle (test labels)", 3)):
        assert f"{name}: {epoch}, AUROC" in words
    assert "(oracle), data" in figure.get_suptitle()
    write_report(tmp_path)  # of a run that was not monitored
    assert curves.selection(tmp_path) is None


def test_warnings_stand_above_the_scores(tmp_path):
    np.savez(tmp_path / "scores.npz", **SCORES)
    long = " ".join(["latent units are constant over training rows"] * 4)
    write_report(tmp_path, warnings=["AUROC is low", long])
    title = detection.score_histograms(tmp_path).axes[0].get_title(loc="left")
    assert " ".join(title.split()) == f"warning: AUROC is low warning: {long}"
    assert 3 <= len(title.splitlines()) <= 4
    write_report(tmp_path, warnings=[])
    assert detection.score_histograms(tmp_path).axes[0].get_title(loc="left") == ""


def test_runs_of_one_experiment_share_a_panel(tmp_path):
    run_dirs = []
    for name in ("alocc", "alocc_faithful"):
        for seed in range(2):
            run_dir = tmp_path / name / f"seed{seed}"
            run_dir.mkdir(parents=True)
            write_report(run_dir, name=name, seed=seed)
            run_dirs.append(run_dir)
            auroc = [0.6, 0.8, 0.9, 0.7]
            rows = [r | {"test_auroc": a} for r, a in zip(epoch_rows(), auroc, strict=False)]
            write_metrics(run_dir, rows)
    out = tmp_path / "out" / "seeds.png"
    assert plots.training_curves_over_seeds(run_dirs, out) == out
    check_picture(out)
    assert list(out.parent.iterdir()) == [out]


def test_runs_without_auroc_cannot_be_compared(tmp_path):
    with pytest.raises(UserError, match="at least one"):
        plots.training_curves_over_seeds([], tmp_path / "x.png")
    write_report(tmp_path, seed=0)
    write_metrics(tmp_path, epoch_rows())
    with pytest.raises(UserError, match=r"metrics\.jsonl has no test_auroc"):
        plots.training_curves_over_seeds([tmp_path], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("levels", [3, 10_000])  # ties, and hardly any
def test_curves_are_scikit_learns(levels):
    rng = np.random.default_rng(levels)
    y = rng.random(300) < 0.3
    scores = rng.integers(0, levels, 300) + levels * 0.3 * y
    cuts = detection._cuts(scores, y)
    false, true, at = roc_curve(y, scores, drop_intermediate=False)
    np.testing.assert_allclose(cuts.false_positive_rate, false)
    np.testing.assert_allclose(cuts.recall, true)
    np.testing.assert_array_equal(cuts.threshold, at)
    precision, recall, _ = precision_recall_curve(y, scores)
    np.testing.assert_allclose(cuts.precision[::-1], precision)
    np.testing.assert_allclose(cuts.recall[::-1], recall)


def test_a_figure_as_svg_is_the_same_bytes_every_time_and_its_words_are_left_alone():
    def drawn():
        figure, axes = style.canvas(3, 3)
        axes[0, 0].plot(RNG.random(0))
        style.headings(figure, "0.123456 'a' < \"b\"", "")
        return style.svg(figure)

    assert drawn() == drawn()
    assert "0.123456 'a' &lt; \"b\"" in drawn()
    assert not re.search(r"<[^>]*\.\d\d[^>]*>", drawn()), "coordinates to a tenth of a point"


def test_blocks_of_pixels_lose_no_peak_and_no_defect():
    rng = np.random.default_rng(0)
    maps, mask = rng.random((2, 300, 129)), rng.random((2, 300, 129)) > 0.999
    small, where = heatmaps.blocks(maps, np.max), heatmaps.blocks(mask, np.max)
    assert small.shape == where.shape == (2, 100, 43)
    np.testing.assert_array_equal(small.max(axis=(1, 2)), maps.max(axis=(1, 2)))
    np.testing.assert_array_equal(small[:, 5, 7], maps[:, 15:18, 21:24].max(axis=(1, 2)))
    for row, above, left in np.argwhere(mask):
        assert where[row, above // 3, left // 3]
    pictures = heatmaps.blocks(np.full((1, 129, 7, 3), 0.25), np.mean)
    assert pictures.shape == (1, 65, 4, 3)
    assert (pictures == 0.25).all()  # also where a block reaches beyond the edge
    assert heatmaps.blocks(maps[:, :128, :128], np.max).shape == (2, 128, 128)


@pytest.mark.parametrize("steps", [3, 1000, 1001, 2777])
def test_columns_of_steps_lose_no_peak_and_no_alarm(steps):
    rng = np.random.default_rng(steps)
    score, y = rng.random(steps).astype(np.float32), rng.random(steps) < 0.01
    values = rng.normal(size=(steps, 9))
    found = series.condensed(score, score > 0.99, 0.99, np.arange(steps), y, values)
    edges = found["edges"]
    assert (edges[0], edges[-1], len(edges)) == (0, steps, min(steps, 1000) + 1)
    for i, (start, end) in enumerate(itertools.pairwise(edges)):
        assert found["index"][i] == start
        assert (found["score_low"][i], found["score_high"][i]) == (
            score[start:end].min(),
            score[start:end].max(),
        )
        assert found["is_anomaly"][i] == (score[start:end] > 0.99).any()
        assert found["y"][i] == y[start:end].any()
        np.testing.assert_array_equal(found["high"][i], values[start:end, :7].max(axis=0))


def test_ticks_of_a_series_name_the_steps_of_the_file():
    figure = series.alarms(stepwise(), "")
    named = figure.axes[-1].xaxis.get_major_formatter()
    assert [named(at, 0) for at in (-1, 0, 101, 747, 751, 1499, 1600)] == [
        *("", "0", "101", "747", "801", "1549", "")
    ]
    assert "interrupted" in figure.axes[-1].get_xlabel()
