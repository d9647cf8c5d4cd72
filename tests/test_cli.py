import numpy as np
import pytest

from jaxae import cli
from jaxae.errors import UserError
from jaxae.evaluation import evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of `jaxae train` on a user's own vectors, scaled by `standard`."""
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    normal = generator.normal(3.0, [1.0, 5.0, 0.2, 2.0], size=(200, 4))
    strange = generator.normal(30.0, 5.0, size=(20, 4))
    test = np.concatenate([normal[150:], strange])
    labels = np.arange(len(test)) >= 50
    np.savez(folder / "own.npz", x_train=normal[:150], x_test=test, y_test=labels.astype(int))
    np.save(folder / "test.npy", test)
    args = (
        f"--name own --data.name npz:{folder / 'own.npz'} --run-dir {folder / 'run'} "
        "--method dense --model.latent 2 --model.output-activation linear --data.scale standard "
        "--train.epochs 5 --train.batch-size 16 --devices 1 --score mse+latent_mahalanobis"
    )
    cli.main(["train", *args.split()])
    return folder, labels


def test_scores_of_a_file_are_those_of_the_run(run, capsys):
    folder, labels = run
    cli.main(["score", str(folder / "run"), str(folder / "test.npy"), str(folder / "out.npz")])
    saved = np.load(folder / "run" / "scores.npz")["test"]
    found = np.load(folder / "out.npz")
    np.testing.assert_allclose(found["score"], saved, rtol=1e-4, atol=1e-4)
    assert f"{found['is_anomaly'].sum()} of {len(labels)} rows" in capsys.readouterr().out
    assert evaluate(found["score"], labels, 0.0)["auroc"] > 0.99


@pytest.mark.parametrize(
    ("rows", "message"),
    [(np.zeros((3, 5)), "shape"), (np.full((3, 4), np.nan), "NaN"), (None, "cannot be read")],
)
def test_rows_that_cannot_be_scored(run, rows, message, tmp_path):
    path = tmp_path / "rows.npy"
    if rows is None:
        path.write_text("not an array")
    else:
        np.save(path, rows)
    with pytest.raises(UserError, match=message):
        cli.score_file(run[0] / "run", path)


@pytest.mark.parametrize(
    ("args", "code"), [([], 2), (["scor"], 2), (["--help"], 0), (["score", "nowhere", "x.npy"], 2)]
)
def test_wrong_words_end_with_a_hint(args, code, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(args)
    assert exit_.value.code == code
    assert len(capsys.readouterr().err.splitlines()) <= 3


def test_every_registered_name_is_listed(capsys):
    cli.main(["list"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("npz:FILE", "alocc", "blurred_energy", "mad", "severity"))
