import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from jaxae.cli import main as cli
from jaxae.errors import UserError
from jaxae.reports import comparison
from jaxae.storage import manifest

N = 300
DIGESTS = np.arange(N, dtype=np.uint64) // 2  # every row is there twice


def run(folder, shift, seed=0, **changes):
    """A folder with the scores of a run that tells normals and anomalies apart by a shift."""
    generator = np.random.default_rng(seed)
    y = np.arange(N) % 3 == 0
    # Rows are as hard for one run as for another.
    scores = np.random.default_rng(9).normal(size=N) + shift * y + 0.3 * generator.normal(size=N)
    arrays = {
        "test": scores.astype(np.float32),
        "test_is_anomaly": scores > 1,
        "test_y": y,
        "test_class_id": y.astype(np.int32),
        "test_id": np.arange(N),
    }
    folder.mkdir()
    arrays |= changes
    np.savez(folder / "scores.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder, arrays


def test_a_comparison_is_of_the_metrics_of_both_runs(tmp_path, capsys):
    one, of_one = run(tmp_path / "a", 2.5)
    other, of_other = run(tmp_path / "b", 0.8, seed=1)
    found = comparison.compare(one, other)
    for side, arrays in (("one", of_one), ("other", of_other)):
        y = arrays["test_y"]
        expected = {
            "auroc": roc_auc_score(y, arrays["test"]),
            "average_precision": average_precision_score(y, arrays["test"]),
            "f1": f1_score(y, arrays["test_is_anomaly"]),
        }
        assert {name: of[side] for name, of in found.items()} == pytest.approx(expected, abs=1e-5)
    for of in found.values():
        assert of["difference"] == pytest.approx(of["one"] - of["other"], abs=1e-6)
        assert of["interval"][0] < of["difference"] < of["interval"][1]
        assert of["p_value"] < 0.01
    assert comparison.compare(one, other) == found
    cli.main(["compare", str(one), str(other)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line.endswith("  real") for line in lines[1:])


def test_runs_that_differ_by_chance_are_not_told_apart(tmp_path):
    one, _ = run(tmp_path / "a", 1.5, seed=2)
    other, _ = run(tmp_path / "b", 1.5, seed=3)
    found = comparison.compare(one, other)
    assert all(of["interval"][0] <= 0 <= of["interval"][1] for of in found.values())
    assert all(of["p_value"] > 0.05 for of in found.values())
    assert comparison.table(found).count("may be chance") == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_id": np.arange(N)[::-1]}, "not scored on the same rows: test_id differs"),
        ({"test_y": np.arange(N) % 3 == 1}, "not scored on the same rows: test_y differs"),
        (
            {"test": np.zeros(5, np.float32)},
            "test_is_anomaly of shapes (5,) and (300,); run the exp",
        ),
        ({"test_is_anomaly": None}, "scores.npz lacks test_is_anomaly; run the experiment again"),
    ],
)
def test_runs_that_cannot_be_compared(changes, words, tmp_path, capsys):
    one, _ = run(tmp_path / "a", 1.5)
    other, _ = run(tmp_path / "b", 1.5, **changes)
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", str(one), str(other)])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_folder_without_scores_is_named(tmp_path):
    one, _ = run(tmp_path / "a", 1.5)
    with pytest.raises(UserError, match=r"none holds no scores\.npz; name"):
        comparison.compare(one, tmp_path / "none")


ZERO = {"difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0, "verdict": "may be chance"}


@pytest.mark.parametrize("scores", [np.arange(N) % 3 == 0, np.zeros(N), np.arange(N) % 7])
def test_equal_runs_differ_by_exactly_nothing_perfect_or_not(scores, tmp_path):
    same = {"test": scores.astype(np.float32)}
    one, _ = run(tmp_path / "a", 1.5, **same)
    other, _ = run(tmp_path / "b", 1.5, **same)
    for of in comparison.compare(one, other).values():
        assert {name: of[name] for name in ZERO} == ZERO
        assert of["one"] == of["other"]


@pytest.mark.parametrize("copies", [1, 2])
def test_rows_in_another_order_are_paired_by_what_they_are(copies, tmp_path):
    """Equal rows get equal scores; those with the same truth are paired."""
    digests = np.arange(N, dtype=np.uint64) // copies
    of_row = {"test_row_digest": digests, "test": (digests * 7 % 31).astype(np.float32)}
    of_row |= {"test_is_anomaly": of_row["test"] > 20}
    one, arrays = run(tmp_path / "a", 1.5, **of_row)
    order = np.random.default_rng(0).permutation(N)
    again, _ = run(tmp_path / "b", 1.5, **{n: values[order] for n, values in arrays.items()})
    better, _ = run(tmp_path / "c", 2.5, 1, test_row_digest=digests)
    for of in comparison.compare(one, again).values():
        assert {name: of[name] for name in ZERO} == ZERO
    if copies == 1:
        auroc, shuffled = (comparison.compare(run, better)["auroc"] for run in (one, again))
        for name in ("difference", "interval", "p_value"):
            assert auroc[name] == pytest.approx(shuffled[name], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_row_digest": DIGESTS + 1}, "298 of 300 rows have the same values in both"),
        ({"test_row_digest": DIGESTS[::-1] // 2}, "150 of 300 rows have the same values in both"),
        ({"test_y": np.arange(N) % 3 == 1}, "test_y differs"),
        ({"test_y": np.roll(np.arange(N) % 3 == 0, 4), "test_row_digest": DIGESTS[::-1]}, "test_y"),
        ({"test_row_digest": DIGESTS[:-1]}, r"test_row_digest of shapes (300,) and (299,)"),
        ({"test": np.full(N, np.nan, np.float32)}, "test is nan in row 0"),
        ({"test": np.full(N, "1")}, "test is <U1 [300]"),
        ({"test_y": np.arange(N) % 3}, "test_y is int64 [300]"),
    ],
)
def test_other_rows_under_the_same_ids_are_refused(changes, words, tmp_path):
    one, _ = run(tmp_path / "a", 1.5, test_row_digest=DIGESTS)
    other, _ = run(tmp_path / "b", 1.5, **{"test_row_digest": DIGESTS} | changes)
    with pytest.raises(UserError) as refused:
        comparison.compare(one, other)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_older_runs_do_not_say_is_said(tmp_path, capsys):
    one, _ = run(tmp_path / "a", 1.5, test_row_digest=DIGESTS)
    older, _ = run(tmp_path / "b", 0.8)
    assert "b has no digests of its test rows" in comparison.unchecked(one, older)
    cli.main(["compare", str(one), str(older), "--json"])
    out, err = capsys.readouterr()
    assert json.loads(out) == comparison.compare(one, older)
    assert err.startswith("not checked: ")
    assert err.count("\n") == 1
    for folder in (one, older):  # the digest of the data covers the rows
        (folder / "data.json").write_text('"same"')
    assert comparison.unchecked(one, older) == ""


def test_opposite_runs_have_no_p_value_and_differ(tmp_path):
    y = np.arange(N) % 3 == 0
    one, _ = run(tmp_path / "a", 1.5, test=y.astype(np.float32))
    other, _ = run(tmp_path / "b", 1.5, test=-y.astype(np.float32))
    auroc = comparison.compare(one, other)["auroc"]
    assert (auroc["difference"], auroc["p_value"], auroc["verdict"]) == (1.0, None, "real")
    assert "-  real" in comparison.table({"auroc": auroc})


def test_scores_that_changed_since_the_run_ended_are_not_compared(tmp_path):
    one, arrays = run(tmp_path / "a", 1.5)
    other, _ = run(tmp_path / "b", 0.8)
    manifest.seal(other)
    comparison.compare(one, other)
    np.savez(other / "scores.npz", **arrays)
    with pytest.raises(UserError, match=r"b/scores\.npz has changed since the run ended"):
        comparison.compare(one, other)
