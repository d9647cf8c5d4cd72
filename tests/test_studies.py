import contextlib
import functools
from pathlib import Path

import numpy as np
import pytest
from probes import assert_same, dataset, edit, images, tiny
from sklearn import manifold

from jaxae.data import DATASETS
from jaxae.data.own import arrays as own_arrays
from jaxae.devices import tuning
from jaxae.errors import UserError
from jaxae.reports import plots, studies
from jaxae.reports.plots import FigureSpec
from jaxae.reports.studies import STUDIES, Findings, Study
from jaxae.types import Steps
from jaxae.workflows import experiment

SHAPE = (8, 8, 1)
NORMALS, ANOMALIES, EPOCHS = 48, 24, 2  # t-SNE needs more rows than its perplexity of 30
IMAGE_STUDIES = tuple(name for name in STUDIES if name not in ("alarms", "beats", "severity"))


def source(path, shape=SHAPE, scale=1.0):
    """Two normal classes of blobs, bright and dim; a third class, their negatives, is abnormal."""

    def rows(n, seed):
        x = images(n, seed) * np.where(np.arange(n) % 2, 1, 0.5).reshape(-1, 1, 1, 1)
        return scale * x.reshape(n, *shape), np.arange(n) % 2

    x_train, y_train = rows(64, 1)
    x_test, y_test = rows(NORMALS, 2)
    x_odd, _ = rows(ANOMALIES, 3)
    np.savez(
        path,
        x_train=x_train.astype(np.float32),
        y_train=y_train,
        x_test=np.concatenate([x_test, scale - x_odd]).astype(np.float32),
        y_test=np.concatenate([y_test, np.full(ANOMALIES, 2)]),
    )
    return f"npz:{path}"


def outcome(folder, method, names, shape=SHAPE, **changes):
    """What a run with these studies reports, and the arrays it leaves; it draws its figures."""
    cfg = edit(
        tiny(
            method,
            model__latent=2,
            train__monitor=True,
            train__keep_checkpoints=0,
            train__checkpoint_every=1,
            train__epochs=EPOCHS,
            data__normal=(0, 1),
        ),
        {
            "data.name": source(folder / "rows.npz", shape),
            "run_dir": str(folder / "run"),
            "studies": names,
            "devices": 1,
        }
        | changes,
    )
    report = experiment.run(cfg)
    arrays = {}
    for path in (folder / "run" / "arrays").glob("*.npz"):
        with np.load(path) as stored:
            arrays[path.stem] = dict(stored)
    return report, arrays


@contextlib.contextmanager
def undrawn():
    """Within it, and no longer, runs draw nothing; gives what they were asked to draw."""
    asked = {}

    def draw(folder, figures=plots.FIGURES):
        asked.update(figures)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", draw)
        yield asked


def largest_error(context):
    """A study from outside: how wrong the worst pixel of any test row is."""
    x = context.data.test.x
    error = np.abs(context.outputs(x).x_hat - x)
    return Findings({"of_rows": error.max(axis=(1, 2, 3))}, {"largest_error": float(error.max())})


def draw_largest_error(folder):
    return None


@pytest.fixture
def outside():
    """Enters studies from outside of the package, for one test."""
    before = dict(STUDIES)
    yield STUDIES.add
    for name in STUDIES.keys() - before.keys():
        del STUDIES[name]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All studies of images but the slow one, on one run; one from outside among them."""
    figures = {"errors": FigureSpec(("arrays/largest_error.npz",), draw_largest_error)}
    folder = tmp_path_factory.mktemp("studies")
    STUDIES.add("largest_error", Study(largest_error, frozenset({"monitor"}), figures))
    try:
        with undrawn() as asked:
            report, arrays = outcome(folder, "dense", (*IMAGE_STUDIES, "largest_error"))
    finally:
        del STUDIES["largest_error"]
    return report, arrays, asked


SHAPES = {
    "reconstructions": {
        "x": (16, *SHAPE),
        "x_hat": (16, *SHAPE),
        "y": (16,),
        "labelled": (),
        "score": (16,),
        "threshold": (),
        "is_anomaly": (16,),
    },
    "verdicts": {
        "x": (7, *SHAPE),
        "x_hat": (7, *SHAPE),
        "score": (7,),
        "kind": (7,),
        "is_anomaly": (7,),
        "threshold": (),
    },
    "heatmaps": {
        "x": (6, *SHAPE),
        "x_hat": (6, *SHAPE),
        "map": (6, *SHAPE[:2]),
        "score": (6,),
        "kind": (6,),
        "is_anomaly": (6,),
        "threshold": (),
    },
    "epoch_grid": {"epochs": (EPOCHS,), "x": (10, *SHAPE), "x_hat": (EPOCHS, 10, *SHAPE)},
    "denoising": {
        "clean": (10, *SHAPE),
        "noisy": (10, *SHAPE),
        "denoised": (10, *SHAPE),
        "noise_std": (),
    },
    "latent_scatter": {
        "z": (NORMALS, 2),
        "class_id": (NORMALS,),
        "classes": (2,),
        "centroids": (2, 2),
        "centroid_images": (2, *SHAPE),
    },
    "latent_grid": {"images": (30, 30, *SHAPE), "x_range": (2,), "y_range": (2,)},
    "tsne": {"points": (NORMALS, 2), "class_id": (NORMALS,)},
    "interpolation": {"images": (10, *SHAPE), "ends": (2, *SHAPE), "class_id": (2,)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_arrays_have_the_shapes_that_the_figures_draw(name, found):
    arrays = found[1][name]
    assert {key: value.shape for key, value in arrays.items()} == SHAPES[name]
    for value in arrays.values():
        assert value.dtype.kind != "O"
        assert value.dtype.kind not in "f" or np.isfinite(value).all()


def test_every_study_leaves_arrays_or_scalars(found):
    report, arrays, _ = found
    assert arrays.keys() <= {*STUDIES, "largest_error"}
    assert arrays["loss_histograms"].keys() == {"train", "valid"}
    assert {
        "flagged_normal",
        "flagged_rotation",
        "auroc_negative",
        "auroc_noise_mse",
        "batch_threshold",
        "recall_batch_threshold",
        "mse_noisy_to_clean",
        "mse_denoised_to_clean",
        "oracle_f1",
        "label_free_auroc",
    } <= report.keys()


def test_studies_agree_with_each_other_and_with_the_report(found):
    report, arrays, _ = found
    shown = arrays["reconstructions"]
    assert shown["y"].tolist() == [False] * 8 + [True] * 8
    error = np.mean((shown["x"] - shown["x_hat"]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(shown["score"], error, rtol=1e-4)
    verdicts = arrays["verdicts"]
    assert shown["threshold"] == verdicts["threshold"] == np.float32(report["threshold"])
    for judged in (shown, verdicts):
        above = judged["score"] > judged["threshold"]
        np.testing.assert_array_equal(judged["is_anomaly"], above)
    grid = arrays["epoch_grid"]
    last = np.mean((grid["x"] - grid["x_hat"][-1]) ** 2)
    assert last < np.mean((grid["x"] - grid["x_hat"][0]) ** 2)
    scatter = arrays["latent_scatter"]
    for class_id, centroid in zip(scatter["classes"], scatter["centroids"], strict=True):
        mean = scatter["z"][scatter["class_id"] == class_id].mean(axis=0)
        np.testing.assert_allclose(centroid, mean, rtol=1e-5)
    first, second = arrays["interpolation"]["class_id"]
    assert first != second
    assert report["oracle_f1"] >= max(report["final_f1"], report["label_free_f1"])
    assert report["final_epoch"] == EPOCHS


def test_noise_of_the_denoising_study_is_that_of_training(found):
    arrays = found[1]["denoising"]
    assert arrays["noise_std"] == np.float32(0.1)
    assert 0 <= arrays["noisy"].min() <= arrays["noisy"].max() <= 1
    assert 0.02 < (arrays["noisy"] - arrays["clean"]).std() <= 0.1


def test_a_study_from_outside_reports_leaves_arrays_and_has_its_figure(found):
    report, arrays, asked = found
    assert arrays["largest_error"]["of_rows"].shape == (NORMALS + ANOMALIES,)
    assert report["largest_error"] == arrays["largest_error"]["of_rows"].max()
    assert asked["errors"].draw is draw_largest_error


def test_the_figures_of_a_study_need_the_arrays_that_it_leaves(found):
    _, arrays, asked = found
    assert asked == plots.FIGURES | studies.figures() | {"errors": asked["errors"]}
    for name, study in STUDIES.items():
        for spec in study.figures.values():
            assert spec.needs == (f"arrays/{name}.npz",)
        if name in IMAGE_STUDIES and name != "cases":  # these are for the page
            assert (name in arrays) == bool(study.figures), name


@pytest.mark.slow
def test_severity_covers_every_corruption(tmp_path):
    with undrawn():
        _, arrays = outcome(tmp_path, "dense", ("severity",))
    severity = arrays["severity"]
    count, steps = severity["severities"].shape
    assert len(severity["names"]) == len(severity["unit"]) == count
    assert severity["auroc"].shape == severity["flagged"].shape == (count, steps)
    assert severity["examples"].shape == (count, steps, *SHAPE)
    assert 0 <= severity["flagged"].min() <= severity["flagged"].max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["conv", "dense"])
def test_studies_of_series(method, tmp_path):
    names = ("beats", "verdicts", "denoising", "batch_threshold")
    with undrawn():
        _, arrays = outcome(tmp_path, method, names, shape=(64, 1), **{"train.monitor": False})
    beats = arrays["beats"]
    assert {value.shape for value in beats.values()} == {(64,)}
    assert beats.keys() == {"normal", "abnormal", "normal_hat", "abnormal_hat"}
    assert arrays["verdicts"]["x"].shape == (4, 64, 1)


def in_a_file(path, rows):
    """The same rows, in a file instead of in memory."""
    filed = np.memmap(path, rows.dtype, "w+", shape=rows.shape)
    filed[:] = rows
    return filed


@pytest.mark.slow
def test_studies_of_rows_that_lie_in_a_file_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "BLOCK", 10)
    folders = tmp_path / "resident", tmp_path / "filed"
    for folder in folders:
        folder.mkdir()
    raw = own_arrays.npz(Path(source(tmp_path / "rows.npz").removeprefix("npz:")))
    x = {part: in_a_file(tmp_path / part, getattr(raw, part)) for part in ("x_train", "x_test")}
    monkeypatch.setitem(DATASETS, "filed", lambda cfg: raw._replace(**x))
    with undrawn():
        report, arrays = outcome(folders[0], "dense", IMAGE_STUDIES)
        of_file = outcome(folders[1], "dense", IMAGE_STUDIES, **{"data.name": "filed"})
    assert of_file[0]["auroc"] == report["auroc"]
    for study in arrays:
        assert_same(of_file[1][study], arrays[study])


@pytest.mark.slow
def test_every_figure_of_a_run_is_drawn(tmp_path):
    outcome(tmp_path, "conv", IMAGE_STUDIES, ensemble=2)
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    of_studies = {title for name in IMAGE_STUDIES for title in STUDIES[name].figures}
    assert drawn == {*plots.FIGURES, *of_studies}
    assert drawn >= {"loss_curves", *SHAPES}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"studies": ("tarot",)}, "unknown study 'tarot'; known: .*batch_threshold, .*verdicts"),
        ({"studies": ("latent_grid",)}, r"model\.latent is 4; use --model\.latent 2"),
        ({"studies": ("interpolation",), "method": "alocc"}, "decodes codes, which method alocc"),
        ({"studies": ("epoch_scores",)}, r"--train\.monitor"),
    ],
)
def test_what_a_configuration_cannot_feed_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        studies.check(edit(tiny(), changes))


def test_what_a_configuration_can_feed_is_accepted():
    studies.check(edit(tiny(), {"studies": ("tsne", "severity", "verdicts")}))
    studies.check(edit(tiny("alocc"), {"score": "d_of_r", "train.monitor": True}))


FEEDS = {  # what a study needs -> a configuration without it, and changes that give it
    "decoder": (tiny("alocc"), {"method": "dense", "model.hidden": (16,)}),
    "plane": (tiny(), {"model.latent": 2}),
    "monitor": (tiny(), {"train.monitor": True}),
    "map": (edit(tiny(), {"score": "latent_knn"}), {"score": "mse"}),
}


VECTORS = dataset(*(np.zeros((4, 3), np.float32) for _ in range(4)))
BRIGHT = dataset(*(2 * images(6) for _ in range(4)))
FEW = dataset(images(6), images(6), images(3), images(6))
SOME_STEPS = Steps(start=np.arange(6), row=np.arange(9), stretch=np.zeros(9, int))
ENOUGH = dataset(*(images(6) for _ in range(4)))._replace(steps=SOME_STEPS)
FEEDS_OF_DATA = {
    "images": VECTORS,
    "corruptible": BRIGHT,
    "neighbours": FEW,
    "labels": ENOUGH._replace(is_labelled=False),
    "steps": ENOUGH._replace(steps=None),
}


@pytest.mark.parametrize("need", FEEDS_OF_DATA)
def test_what_a_study_needs_is_asked_of_the_data(need, outside):
    outside("mine", Study(largest_error, frozenset({need})))
    cfg = edit(tiny(), {"studies": ("mine",)})
    with pytest.raises(UserError, match=r"study mine .*leave it out$"):
        studies.check(cfg, FEEDS_OF_DATA[need])
    studies.check(cfg)
    studies.check(cfg, ENOUGH)


@pytest.mark.parametrize("need", FEEDS)
def test_what_a_study_needs_is_asked_of_the_configuration(need, outside):
    outside("mine", Study(largest_error, frozenset({need})))
    cfg, gives = FEEDS[need]
    cfg = edit(cfg, {"studies": ("mine",)})
    with pytest.raises(UserError, match=r"study mine .*; (leave it out|use --)"):
        studies.check(cfg)
    studies.check(edit(cfg, gives))


def test_every_need_of_a_study_is_known():
    of_data = {name for name, need in studies.NEEDS.items() if need.of_data}
    assert FEEDS_OF_DATA.keys() == of_data
    assert FEEDS.keys() == studies.NEEDS.keys() - of_data
    assert frozenset().union(*(study.needs for study in STUDIES.values())) <= studies.NEEDS.keys()


def test_a_study_from_outside_must_be_one_and_cannot_take_a_name(outside):
    with pytest.raises(UserError, match="study 'verdicts' already exists"):
        outside("verdicts", Study(largest_error))
    with pytest.raises(UserError, match="must be a Study, not function"):
        outside("mine", largest_error)
    assert "mine" not in STUDIES


@pytest.mark.parametrize(("normals", "latent"), [(4, 2), (31, 1)])
def test_a_map_of_few_codes_or_of_codes_of_one_value(normals, latent, tmp_path, monkeypatch):
    monkeypatch.setattr(manifold, "TSNE", functools.partial(manifold.TSNE, max_iter=250))
    x = images(80)
    np.savez(tmp_path / "x.npz", x_train=x[:20], x_test=x[20 : 30 + normals],
             y_test=np.arange(10 + normals) >= normals)  # fmt: skip
    cfg = tiny(data__name=f"npz:{tmp_path / 'x.npz'}", model__latent=latent, studies=("tsne",))
    with undrawn():
        experiment.run(edit(cfg, {"run_dir": str(tmp_path / "run"), "train.epochs": 1}))
    with np.load(tmp_path / "run/arrays/tsne.npz") as found:
        assert found["points"].shape == (normals, 2)
        assert np.isfinite(found["points"]).all()
