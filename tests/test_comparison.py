import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from jaxae.cli import main as cli
from jaxae.errors import UserError
from jaxae.reports import comparison

N = 300


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
