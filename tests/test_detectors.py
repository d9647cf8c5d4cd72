import dataclasses
import json
import os
import shutil
import subprocess
import sys
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, METHODS, SHAPE, assert_same, dataset, edit, images, initial, tiny

from jaxae import config, detectors, scoring
from jaxae.detectors import calibration, fitting
from jaxae.devices import members
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import plots
from jaxae.storage import archive, disk
from jaxae.training import train
from jaxae.types import Decision, Learner, Outputs, Rule, Scaling
from jaxae.workflows import experiment

DEVICES = DEVICES[:2]
DATA = dataset(images(40, 1), images(30, 2), images(20, 3), 1 - images(20, 4))


def learner_of(x_hat):
    """Reconstructs by a formula of (variables, x), so that every error is known."""

    def infer(variables, x):
        return Outputs(x_hat(variables, x), x.reshape(x.shape[0], -1))

    return Learner(None, None, infer, None)


def shift_learner():
    return learner_of(lambda variables, x: x + variables["by"])


def fit(learner, variables, data=DATA, **changes):
    cfg = tiny(**{"score": "mae", "ensemble": members.count(variables)} | changes)
    return detectors.fit(learner, variables, data, cfg, DEVICES)


@pytest.fixture(scope="module")
def model():
    learner = learners.build(tiny("dense"), SHAPE)
    variables = initial(learner).variables
    infer = jax.jit(learner.infer)
    errors = {
        name: np.abs(x - np.asarray(infer(members.pick(variables, 0), x).x_hat)).mean((1, 2, 3))
        for name, x in (("train", DATA.train.x), ("valid", DATA.valid.x), ("test", DATA.test.x))
    }
    return learner, variables, errors


@pytest.mark.parametrize(
    ("threshold", "normals"),
    [
        ({"on": "valid"}, lambda e: e["valid"]),
        ({"on": "train"}, lambda e: e["train"]),
        ({"on": "train", "limit": 7}, lambda e: e["train"][:7]),
        ({"on": "valid", "limit": 1000}, lambda e: e["valid"]),
    ],
)
def test_the_threshold_is_the_rule_on_the_rows_asked_for(model, threshold, normals):
    learner, variables, errors = model
    changes = {f"threshold__{name}": value for name, value in threshold.items()}
    for rule, line in (
        ("max", np.max),
        ("quantile:0.8", lambda s: np.quantile(s, 0.8)),
        ("mean_std:2", lambda s: s.mean() + 2 * s.std()),
    ):
        detector, scores = fit(learner, variables, threshold__rule=rule, **changes)
        assert detector.decision.threshold == pytest.approx(line(normals(errors)), rel=1e-5)
        np.testing.assert_allclose(detector.decision.calibration, normals(errors), rtol=1e-5)
        for name in errors:
            np.testing.assert_allclose(getattr(scores, name), errors[name], rtol=1e-5)


def test_a_detector_holds_all_that_judging_a_row_needs(model):
    learner, variables, _ = model
    detector, scores = fit(learner, variables, score="mae+mse")
    score = detectors.score_fn(detector, learner, DEVICES)
    np.testing.assert_array_equal(score(DATA.test.x), scores.test)
    parts = [fit(learner, variables, score=name)[1] for name in ("mae", "mse")]
    expected = sum(
        (np.log(part.test) - np.log(part.valid).mean()) / np.log(part.valid).std() for part in parts
    )
    np.testing.assert_allclose(scores.test, expected, rtol=1e-3, atol=1e-3)


def test_a_detector_judges_raw_rows_by_its_description_alone(model):
    learner, variables, _ = model
    scaling = Scaling(*(np.full((1, 1, 1), value, np.float32) for value in (-1.0, 0.5)))
    detector, scores = fit(learner, variables, data=DATA._replace(scaling=scaling))
    assert detector.about.shape == SHAPE
    raw = 0.5 * DATA.test.x - 1
    found = detectors.judge(detector, raw)
    np.testing.assert_allclose(found.score, scores.test, rtol=1e-4)
    np.testing.assert_array_equal(found.is_anomaly, found.score > detector.decision.threshold)
    without_channel = detectors.judge(detector, raw[..., 0])  # grey images may come without theirs
    np.testing.assert_array_equal(without_channel.score, found.score)


GREY, COLOUR = (5, 5, 1), (5, 5, 3)
HUGE = np.full((4, *GREY), 1e30, np.float32)  # finite, but its squared error is not
REFUSED = [
    (GREY, "float32", np.zeros((0, *GREY), np.float32), "no rows"),
    (GREY, "float32", np.zeros((3, 5, 4, 1), np.float32), r"takes \[N, 5, 5, 1\]"),
    (GREY, "float32", np.zeros(25, np.float32), r"given as \[25\]"),
    (GREY, "float32", np.float32(1), r"given as \[\]"),
    (COLOUR, "float32", np.zeros((6, 5, 5), np.float32), r"given as \[6, 5, 5\]"),
    (GREY, "float32", np.zeros((3, *GREY), np.uint8), "uint8, but .* float32 .*numbers as they"),
    (GREY, "uint8", np.zeros((3, *GREY), np.float32), r"float32, but .* uint8 .*0 \.\.\. 255"),
    (GREY, "uint8", np.zeros((3, *GREY), np.int64), "int64, but .* uint8"),
    (GREY, "float32", np.zeros((3, *GREY), complex), "of type complex128"),
    (GREY, "float32", np.full((3, *GREY), "a"), "of type <U1"),
    (GREY, "float32", np.zeros((3, *GREY), "M8[s]"), "of type datetime64"),
    (GREY, "float32", np.zeros(3, [("x", "f4")]), "of type"),
    (GREY, "float32", np.where(np.arange(4) == 2, np.nan, 0)[:, None, None, None] + 0 * HUGE,
     "1 rows hold NaN or infinite values, first row 2"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype", "rows", "words"), REFUSED)
def test_rows_that_a_detector_cannot_judge_are_refused_in_words(shape, dtype, rows, words):
    cfg = tiny("dense", model__output_activation="linear")
    variables = initial(learners.build(cfg, shape), shape).variables
    one = np.ones((1,) * len(shape), np.float32)
    detector = detectors.Detector(
        detectors.Description(cfg, shape, dtype, None),
        variables,
        {},
        scoring.fit_rule("max", np.arange(3, dtype=np.float32)),
        Scaling(0 * one, one),
    )
    with np.errstate(over="ignore"), pytest.raises(UserError, match=words):
        detectors.judge(detector, np.asarray(rows))


def test_a_score_that_tells_no_row_apart_is_refused():
    flat = DATA._replace(test=DATA.test._replace(x=0 * DATA.test.x))
    with pytest.raises(FloatingPointError, match=r"score 'mae' is 0\.1 for every test row"):
        fit(shift_learner(), {"by": jnp.array([0.1])}, data=flat)


@pytest.mark.parametrize(
    ("test", "is_labelled", "tie_is_chance"), [(2, True, True), (3, False, True), (3, True, False)]
)
def test_two_rows_or_held_out_ones_may_tie_where_others_do_not(test, is_labelled, tie_is_chance):
    tied, apart = np.zeros(test, np.float32), np.float32([-1, 2, 0])
    if tie_is_chance:
        fitting._check_spread(detectors.Scores(apart, tied, tied), "mse", is_labelled)
    else:
        with pytest.raises(FloatingPointError, match="0 for every test row"):
            fitting._check_spread(detectors.Scores(apart, tied, tied), "mse")
    with pytest.raises(FloatingPointError, match="0 for every test row"):
        fitting._check_spread(detectors.Scores(0 * apart, tied, tied), "mse", is_labelled)


def test_members_of_an_ensemble_are_averaged_with_a_fit_of_their_own():
    by = {"by": jnp.array([0.1, 0.3])}
    learner = shift_learner()
    detector, scores = fit(learner, by, threshold__rule="max")
    np.testing.assert_allclose(scores.test, 0.2, rtol=1e-4)
    assert detector.decision.threshold == pytest.approx(0.2, rel=1e-4)
    score = detectors.score_fn(detector, learner, DEVICES)
    np.testing.assert_allclose(score(DATA.test.x), 0.2, rtol=1e-4)
    fitted = fit(learner, by, score="latent_mahalanobis")[0].fitted
    assert {leaf.shape[0] for leaf in jax.tree.leaves(fitted)} == {2}


def test_one_member_of_many():
    tree = {"a": jnp.arange(6).reshape(3, 2)}
    assert members.count(tree) == 3
    ones = [members.pick(tree, member) for member in range(3)]
    assert [one["a"].tolist() for one in ones] == [[0, 1], [2, 3], [4, 5]]
    assert_same(members.stack(ones), tree)
    assert_same(members.stack([tree]), {"a": tree["a"][None]})


def test_a_model_that_says_the_same_of_every_row_has_collapsed():
    learner = learner_of(lambda variables, x: 0 * x + variables["level"])
    with pytest.raises(FloatingPointError, match=r"collapsed.*lower optim\.lr"):
        fit(learner, {"level": jnp.array([0.3])})


def test_a_member_that_has_collapsed_is_found_among_others():
    learner = learner_of(lambda variables, x: x * variables["gain"])
    assert fit(learner, {"gain": jnp.array([0.5, 0.9])})
    with pytest.raises(FloatingPointError, match="collapsed"):
        fit(learner, {"gain": jnp.array([0.5, 0.0])})


def test_scores_that_are_not_numbers_are_refused():
    learner = learner_of(
        lambda variables, x: jnp.where(x > 0.999, jnp.nan, x * variables["gain"]),
    )
    broken = DATA._replace(
        train=DATA.train._replace(x=np.ones_like(DATA.train.x)),
        valid=DATA.valid._replace(x=0.9 * DATA.valid.x),
    )
    with pytest.raises(FloatingPointError, match=r"\d+ of 40 train scores are not finite"):
        fit(learner, {"gain": jnp.array([0.5])}, broken, score="mse", threshold__rule="max")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": "d_of_r"}, ["'d_of_r' needs d_of_r", "method dense", "--method alocc"]),
        ({"score": "mse+d_of_x+d_of_r"}, ["needs d_of_r, d_of_x", "--method alocc"]),
        ({"method": "conv", "score": "d_of_x"}, ["needs d_of_x", "method conv", "--score"]),
        ({"score": "psnr"}, ["unknown score 'psnr'", "mse"]),
        ({"threshold__rule": "magic"}, ["unknown threshold rule 'magic'", "quantile"]),
        ({"threshold__rule": "quantile"}, ["quantile", "number"]),
        ({"threshold__rule": "conformal:1"}, ["conformal:1", "between 0 and 1"]),
    ],
)
def test_what_no_detector_could_be_made_of_is_refused(changes, words):
    with pytest.raises(UserError) as caught:
        detectors.check(tiny(**changes))
    assert all(word in str(caught.value) for word in words)


NO_GUARANTEE = [
    ({"threshold__on": "train"}, ["threshold.on = train", "--threshold.on valid"]),
    ({"data__valid": "test"}, ["data.valid = test", "--data.valid holdout"]),
    (
        {"score": "mse+latent_knn"},
        ["'mse+latent_knn' is standardised", "--threshold.standardise-fraction"],
    ),
]


@pytest.mark.parametrize(("changes", "words"), NO_GUARANTEE)
def test_a_promise_that_the_calibration_rows_would_break_is_refused(changes, words, monkeypatch):
    """By what the rule says of itself, not by its name."""
    own = Rule(scoring.RULES["max"].fit, exchangeable=True)
    monkeypatch.setitem(scoring.RULES, "own", own)
    for rule in ("conformal:0.1", "own"):
        with pytest.raises(UserError, match=f"{rule}.* would have no guarantee") as caught:
            detectors.check(tiny(**changes, threshold__rule=rule))
        assert all(word in str(caught.value) for word in words)
        detectors.check(tiny(threshold__rule=rule))
    detectors.check(tiny(**changes, threshold__rule="quantile:0.9"))  # promises nothing
    assert calibration.why_no_guarantee(tiny(**changes)) in str(caught.value)
    assert not calibration.why_no_guarantee(tiny())


def test_rows_set_aside_standardise_a_sum_and_the_others_calibrate():
    """Changing a calibration row must not change the score; a row set aside must not calibrate."""
    cfg = tiny(
        score="mse+mae", threshold__standardise_fraction=0.4, threshold__rule="conformal:0.2"
    )
    detectors.check(cfg)
    assert not calibration.why_no_guarantee(cfg)
    aside, kept = calibration.split_valid(cfg, 30)
    assert (len(aside), len(kept)) == (12, 18)
    assert sorted([*aside, *kept]) == list(range(30))
    other = DATA.valid.x.copy()
    other[kept] = images(18, seed=9)
    learner = learners.build(tiny("dense"), SHAPE)
    found = [
        detectors.fit(learner, initial(learner).variables, data, cfg, DEVICES)
        for data in (DATA, DATA._replace(valid=DATA.valid._replace(x=other)))
    ]
    (one, scores), (two, changed) = found
    np.testing.assert_array_equal(scores.test, changed.test)
    np.testing.assert_array_equal(one.decision.calibration, scores.valid[kept])
    assert not np.array_equal(two.decision.calibration, one.decision.calibration)


def test_rows_are_set_aside_for_sums_only_and_no_part_is_empty():
    with pytest.raises(UserError, match="'mse' is not a sum of scores"):
        detectors.check(tiny(threshold__standardise_fraction=0.5))
    with pytest.raises(UserError, match="of 2 valid rows leaves a part empty"):
        calibration.split_valid(tiny(score="mse+mae", threshold__standardise_fraction=0.1), 2)


@pytest.mark.parametrize(
    ("changes", "n"),
    [({}, 30), ({"threshold__on": "train"}, 40), ({"threshold__limit": 9}, 9),
     ({"threshold__limit": 99}, 30)],
)  # fmt: skip
def test_too_few_normals_are_seen_before_training(changes, n, monkeypatch):
    """By what its fit says of their number: here of a rule that may be fitted on train too."""
    own = scoring.RULES["conformal"]._replace(exchangeable=False)
    monkeypatch.setitem(scoring.RULES, "own", own)
    detectors.check(tiny(**changes, threshold__rule=f"own:{1 / (n + 1)}"), DATA)
    out_of_reach = tiny(**changes, threshold__rule=f"own:{0.99 / (n + 1)}")
    with pytest.raises(UserError, match=f"too low for {n} calibration rows"):
        detectors.check(out_of_reach, DATA)


def test_p_values_are_ranks_whatever_the_rule(model):
    learner, variables, _ = model
    for rule in ("max", "conformal:0.1"):
        detector, scores = fit(learner, variables, threshold__rule=rule)
        found = detectors.judge(detector, DATA.test.x)
        reach = (scores.valid[None] >= scores.test[:, None]).sum(axis=1)
        np.testing.assert_allclose(found.p_value, (1 + reach) / 31, rtol=1e-6)
    np.testing.assert_array_equal(found.is_anomaly, found.p_value <= np.float32(0.1))
    assert 0 < found.is_anomaly.sum() < len(found.is_anomaly)


@pytest.mark.parametrize("score", ["d_of_r", "mse+d_of_x", "latent_knn"])
def test_a_method_is_given_the_scores_that_it_can_feed(score):
    detectors.check(tiny("alocc", score=score))


# On disk.


@cache
def made(score="mae", shape=(6,), **changes):
    """A detector of a dense model, initialised only, with all that its score fits."""
    cfg = tiny(score=score, **changes)
    learner = learners.build(cfg, shape)
    generator = np.random.default_rng(3)
    rows = [generator.random((n, *shape), np.float32) for n in (40, 30, 20, 20)]
    data = dataset(*rows)._replace(
        scaling=Scaling(*generator.random((2, *shape), np.float32)), dtype="uint8"
    )
    variables = initial(learner, shape, cfg.seed, cfg.ensemble).variables
    return detectors.fit(learner, variables, data, cfg, DEVICES)[0]


def ruled(rule):
    """The same detector with another decision."""
    detector = made()
    about = dataclasses.replace(
        detector.about, config=edit(detector.about.config, {"threshold.rule": rule})
    )
    decision = scoring.fit_rule(rule, detector.decision.calibration)
    return detector._replace(about=about, decision=decision)


def arrays(detector):
    return detector._replace(about=None, decision=detector.decision._replace(rule=None))


def test_names_of_arrays_may_hold_anything(tmp_path):
    tree = {"Conv_0/kernel/sigma": np.ones(2), "a~1b": {"~0/": np.zeros(3)}}
    archive.write(tmp_path, {}, tree)
    found = archive.read_arrays(tmp_path, archive.read_description(tmp_path)["digest"])
    assert_same(found, tree)


@pytest.mark.slow
def test_a_steadied_alocc_judges_alone_as_it_does_in_process(tmp_path):
    options = {"bottleneck": 4, "code_noise": 0.3, "spectral": True, "ema": 0.9}
    cfg = tiny("alocc", **{f"alocc__{name}": value for name, value in options.items()})
    learner = learners.build(cfg, SHAPE)
    variables = jax.tree.map(lambda leaf: 3 * leaf, initial(learner).variables)
    detector, scores = detectors.fit(learner, variables, DATA, cfg, DEVICES)
    detectors.save(tmp_path, detector)
    kept = detectors.load(tmp_path)
    assert_same(kept.variables, variables)
    learner = learners.build(config.for_scoring(cfg), SHAPE)
    found = detectors.score_fn(kept, learner, DEVICES)(DATA.test.x)
    np.testing.assert_array_equal(found, scores.test)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "score",
    [
        "mae",
        "latent_mahalanobis",
        pytest.param("mse+mae", id="sum of parts that fit nothing"),
        pytest.param("mse+latent_knn+blurred_energy", id="sum of parts of which two are fitted"),
    ],
)
def test_a_detector_comes_back_to_the_bit(score, size, tmp_path):
    detector = made(score, ensemble=size, threshold__rule="mad:3")
    detectors.save(tmp_path / "detector", detector)
    found = detectors.load(tmp_path / "detector")
    assert found.about == detector.about
    assert found.decision.rule == "mad:3"
    assert found.decision.threshold == detector.decision.threshold
    assert jax.tree.structure(arrays(found)) == jax.tree.structure(arrays(detector))
    assert_same(arrays(found), arrays(detector))
    types = [[leaf.dtype for leaf in jax.tree.leaves(arrays(d))] for d in (found, detector)]
    assert types[0] == types[1]
    assert members.count(found.variables) == size


@pytest.mark.parametrize("method", METHODS)
def test_the_variables_of_every_method_come_back(method, tmp_path):
    cfg = tiny(method, ensemble=2, threshold__rule="max")
    shape = (32, 32, 1)
    abstract = train.abstract_state(learners.build(cfg, shape), shape, 2).variables
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: generator.random(a.shape, np.float32), abstract)
    decision = Decision("max", {"threshold": np.float32(0.25)}, np.float32([0.1, 0.25]))
    about = detectors.Description(cfg, shape, "uint8", None)
    scale = np.full((1, 1, 1), 2, np.float32)
    detector = detectors.Detector(about, variables, {}, decision, Scaling(0 * scale, scale))
    detectors.save(tmp_path, detector)
    found = detectors.load(tmp_path)
    assert found.about == about
    assert jax.tree.structure(arrays(found)) == jax.tree.structure(arrays(detector))
    assert_same(arrays(found), arrays(detector))


def test_a_description_says_what_the_arrays_are(tmp_path):
    detector = made(ensemble=2)
    detectors.save(tmp_path, detector)
    known = json.loads((tmp_path / "description.json").read_text())
    assert known["format"] == config.FORMAT
    assert (known["shape"], known["dtype"], known["members"]) == ([6], "uint8", 2)
    assert known["threshold"] == detector.decision.threshold
    assert known["calibration_flaw"] is None
    assert config.from_dict(known["config"]) == detector.about.config
    assert known["arrays"]["decision/calibration"] == "float32[30]"
    with np.load(next(tmp_path.glob("arrays-*.npz"))) as stored:
        assert sorted(stored.files) == sorted(known["arrays"])


def test_a_detector_takes_the_place_of_the_one_before(tmp_path):
    folder = tmp_path / "detector"
    for rule in ("max", "mean_std:2", "mean_std:2", "quantile:0.5"):
        detector = ruled(rule)
        detectors.save(folder, detector)
        assert_same(detectors.load(folder).decision.state, detector.decision.state)
        assert len(names(folder)) == 2
        assert names(folder)[0].startswith("arrays-")
        assert names(folder)[1] == "description.json"
    assert names(tmp_path) == ["detector"]


def test_a_detector_that_is_not_saved_whole_leaves_the_one_before(tmp_path, monkeypatch):
    before, after = ruled("max"), ruled("mean_std:2")
    detectors.save(tmp_path, before)
    for step in ("write_arrays", "write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(disk, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                detectors.save(tmp_path, after)
        assert detectors.load(tmp_path).decision.threshold == before.decision.threshold
    detectors.save(tmp_path, after)
    assert detectors.load(tmp_path).decision.threshold == after.decision.threshold
    assert len(names(tmp_path)) == 2


def interrupted(*args):
    raise KeyboardInterrupt


@pytest.fixture
def saved(tmp_path):
    """A saved detector: its folder, and its file of arrays."""
    folder = tmp_path / "mine"
    detectors.save(folder, made())
    return folder, next(folder.glob("arrays-*.npz"))


def refused(folder):
    """What is said of a folder that holds no detector that could be used."""
    with pytest.raises(UserError) as caught:
        detectors.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_flipped_bit_of_the_arrays_is_found_or_changes_nothing(saved):
    folder, path = saved
    whole, original = path.read_bytes(), detectors.load(folder)
    directory = whole.index(b"PK\x01\x02")
    generator = np.random.default_rng(0)
    drawn = generator.integers((len(whole), 8), size=(400, 2)).tolist()
    complaints = []
    # The zip format's version and its mark of encryption, and wherever else.
    for position, bit in [(directory + 6, 6), (directory + 8, 0), *drawn]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of a header that it can half read
            try:
                loaded = detectors.load(folder)
            except UserError as error:
                complaints.append(str(error))
            else:  # it was the date of a file in the archive, say
                assert_same(arrays(loaded), arrays(original))
    assert len(complaints) > 300
    assert all(str(folder) in line and "\n" not in line for line in complaints)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_arrays_that_are_cut_off(share, saved):
    folder, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "run it again" in refused(folder)


def test_arrays_that_are_not_there(saved):
    folder, path = saved
    path.unlink()
    assert path.name in refused(folder)


def test_arrays_of_another_detector(saved, tmp_path):
    folder, path = saved
    detectors.save(tmp_path / "other", made(seed=1))
    shutil.copy(next((tmp_path / "other").glob("arrays-*.npz")), path)
    assert f"{path.name} is damaged" in refused(folder)


@pytest.mark.parametrize(
    "text", ["", '{"format": 2, "con', "name: x", "[]", "[1, 2]", "null", "3", '"text"', "\xff\xfe"]
)
def test_a_description_that_is_none(text, saved):
    folder, _ = saved
    (folder / "description.json").write_bytes(text.encode("latin-1"))
    assert "run it again" in refused(folder)


@pytest.mark.parametrize("field", ["config", "digest", "shape", "dtype", "jaxae"])
def test_a_description_without_a_field(field, saved):
    folder, _ = saved
    known = json.loads((folder / "description.json").read_text())
    del known[field]
    (folder / "description.json").write_text(json.dumps(known))
    assert field in refused(folder)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("config", [], "config"),
        ("config", None, "config"),
        ("config.name", 3, "name is 3"),
        ("config.model", [], "model"),
        ("config.model.latent", "four", "model.latent"),
        ("config.data.normal", 5, "data.normal"),
        ("config.train.speed", 5, "train.speed"),
        ("config.threshold", "max", "threshold"),
        ("shape", 6, ""),
        ("digest", "../other", ""),
    ],
)
def test_a_description_with_a_value_of_another_kind(field, value, word, saved):
    folder, _ = saved
    known = json.loads((folder / "description.json").read_text())
    *parents, name = field.split(".")
    node = known
    for parent in parents:
        node = node[parent]
    node[name] = value
    (folder / "description.json").write_text(json.dumps(known))
    assert word in refused(folder)


@pytest.mark.parametrize("other", [config.FORMAT - 1, config.FORMAT + 1])
def test_a_detector_of_another_version(other, saved):
    folder, _ = saved
    known = json.loads((folder / "description.json").read_text())
    known["format"] = known["config"]["format"] = other
    (folder / "description.json").write_text(json.dumps(known))
    message = refused(folder)
    assert f"format {other}" in message
    assert f"format {config.FORMAT}" in message
    assert "run it again" in message


def test_a_detector_from_before_there_were_descriptions(tmp_path):
    folder = tmp_path / "run" / "detector"
    folder.mkdir(parents=True)
    for name in ("_CHECKPOINT_METADATA", "_METADATA", "_sharding", "manifest.ocdbt"):
        (folder / name).write_text("{}")
    message = refused(folder)
    assert "holds no description.json" in message
    assert "run an older one again" in message


@pytest.mark.parametrize("is_made", [False, True])
def test_a_folder_without_detector(is_made, tmp_path):
    folder = tmp_path / "nowhere"
    if is_made:
        folder.mkdir()
    assert f"no detector in {folder}" in refused(folder)


# Alone: a copy of the folder, without the run, its data or this process.


def write_rows(path, kind):
    """A data set whose test rows make several blocks."""
    x, test = images(96, 5), images(160, 6)
    rows = {"x_train": x, "x_test": np.concatenate([test, 1 - test])}
    if kind == "uint8 images":
        rows = {name: (255 * a).astype(np.uint8) for name, a in rows.items()}
    else:
        flat = {name: a.reshape(len(a), -1)[:, ::3].astype(float) for name, a in rows.items()}
        rows = {name: 3 + 7.5 * a for name, a in flat.items()}
    np.savez(path, **rows, y_test=np.arange(320) // 160)
    return rows["x_test"]


ALONE = {
    "pixels": ("uint8 images", "conv", {}),
    "numbers": (
        "float vectors",
        "dense",
        {
            "data.scale": "standard",
            "model.output_activation": "linear",
            "train.noise_clip": False,
            "score": "mse+latent_mahalanobis",
            "threshold.rule": "mad:3",
        },
    ),
    "two members": (
        "uint8 images",
        "dense",
        {"ensemble": 2, "score": "blurred_energy+latent_knn", "threshold.on": "train"},
    ),
}
JUDGE = """
import sys
from pathlib import Path
import numpy as np
from jaxae import detectors
assert [path.name for path in Path().iterdir()] == ["detectors"]
for folder in Path("detectors").iterdir():
    rows = Path(sys.argv[1], f"{folder.name}.npy")
    found = detectors.judge(detectors.load(folder), np.load(rows))
    np.savez(rows.with_suffix(".npz"), **found._asdict())
"""


def apart(command, cwd):
    """Run Python elsewhere, on one device, with programs optimised as they are here."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=known,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(
    scope="module",
    params=[
        "programs of tests",
        pytest.param("programs of users", marks=[pytest.mark.slow, pytest.mark.optimised]),
    ],
)
def alone(tmp_path_factory):
    """Detectors of finished runs, copied away from them: an empty place with them, their rows in
    another, and what the runs wrote of these rows; nothing else is left of the runs."""
    work, place, rows = (tmp_path_factory.mktemp(name) for name in ("work", "place", "rows"))
    written = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *args: [])
        for name, (kind, method, changes) in ALONE.items():
            np.save(rows / f"{name}.npy", write_rows(work / f"{name}.npz", kind))
            data = {"data.name": f"npz:{work / name}.npz", "run_dir": str(work / name)}
            experiment.run(edit(tiny(method), data | changes))
            shutil.copytree(work / name / "detector", place / "detectors" / name)
            with np.load(work / name / "scores.npz") as stored:
                written[name] = {key: stored[key] for key in ("test", "test_is_anomaly", "test_y")}
    shutil.rmtree(work)
    apart(["-c", JUDGE, rows], place)
    return place, rows, written


@pytest.mark.parametrize("name", ALONE)
def test_a_detector_alone_judges_raw_rows_as_the_run_did(name, alone):
    _, rows, written = alone
    with np.load(rows / f"{name}.npz") as found:
        assert found["score"].dtype == np.float32
        np.testing.assert_array_equal(found["score"], written[name]["test"])
        np.testing.assert_array_equal(found["is_anomaly"], written[name]["test_is_anomaly"])
    assert 0 < written[name]["test_is_anomaly"].sum() < len(written[name]["test_y"])


def test_the_command_line_takes_a_detector_alone(alone, tmp_path):
    place, rows, written = alone
    for name in ("numbers", "two members"):
        out = tmp_path / f"{name}.npz"
        command = ["-m", "jaxae", "score", place / "detectors" / name, rows / f"{name}.npy"]
        command += ["--out", out]
        said = apart(command, tmp_path).stdout
        with np.load(out) as found:
            np.testing.assert_array_equal(found["score"], written[name]["test"])
            np.testing.assert_array_equal(found["is_anomaly"], written[name]["test_is_anomaly"])
        assert said.startswith(f"{written[name]['test_is_anomaly'].sum()} of 320 rows are anomal")
        assert said.count("\n") == 1
