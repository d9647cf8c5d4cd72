"""Learners made from learners: rows augmented inside the step, schedules of the learning rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import (
    DEVICES,
    SHAPE,
    assert_close,
    assert_same,
    batch,
    edit,
    images,
    initial,
    start,
    tiny,
    write_npz,
)

from jaxae.config import from_dict, to_dict
from jaxae.config.checks import training_identity
from jaxae.config.parsing import parse_cli
from jaxae.data.augmentations import AUGMENTATIONS, check_rows, resolve
from jaxae.data.corruptions import CORRUPTIONS
from jaxae.devices import members
from jaxae.errors import UserError
from jaxae.methods import learners, wrappers
from jaxae.reports import plots
from jaxae.training import grid, train
from jaxae.types import Batch, Learner, Outputs, TrainState
from jaxae.workflows import experiment

KEY = jax.random.key(3)
ROWS = {3: (6, 9, 2), 2: (12, 2), 1: (10,)}  # axes -> shape of a row
AUGMENT = ("rotation:20", "shift:2", "flip:0.5", "noise:0.1", "mask:0.3")
X = images(40)


def apply(name, x, most, seeds):
    """Variants [B, *S] of one row."""
    one = AUGMENTATIONS[name].apply
    return np.asarray(
        jax.vmap(lambda key: one(jnp.asarray(x), float(most), key))(jax.random.split(KEY, seeds))
    )


# The augmentations.


@pytest.mark.parametrize(
    ("name", "axes"), [(name, n) for name, one in AUGMENTATIONS.items() for n in one.dims]
)
def test_variants_differ_from_the_row_and_from_each_other_up_to_what_is_asked_for(name, axes):
    x = jnp.asarray(np.random.default_rng(0).random(ROWS[axes]), jnp.float32)
    most = CORRUPTIONS[name].severities[-1] if name in CORRUPTIONS else AUGMENTATIONS[name].example
    found = apply(name, x, most, 40)
    assert found.dtype == x.dtype
    assert found[0].shape == x.shape
    assert len(np.unique(found.reshape(40, -1), axis=0)) > (1 if name == "flip" else 3)
    if name in CORRUPTIONS and name not in ("shift", "noise_rescaled"):
        little = apply(name, x, 1e-6, 4)  # severities go down to 0
        np.testing.assert_allclose(little, np.broadcast_to(x, little.shape), atol=1e-4)


def test_rotations_go_both_ways_and_as_far_as_asked_for():
    x = jnp.zeros((21, 21, 1)).at[10, 20].set(1.0)  # to the right of the middle
    found = apply("rotation", x, 45.0, 300)[..., 0]
    rows, columns = np.unravel_index(found.reshape(300, -1).argmax(axis=1), (21, 21))
    angle = np.rad2deg(np.arctan2(10 - rows, columns - 10))
    assert -46 < angle.min() < -35 < 35 < angle.max() < 46


def test_shifts_are_whole_and_leave_black_or_the_end_of_a_series():
    x = jnp.asarray(np.random.default_rng(1).random((7, 8, 2)) + 0.1, jnp.float32)
    padded = np.pad(x, ((2, 2), (2, 2), (0, 0)))
    every = {(i, j): padded[i : i + 7, j : j + 8] for i in range(5) for j in range(5)}
    found = apply("shift", x, 2.0, 400)
    seen = {at for at, image in every.items() for one in found if (one == image).all()}
    assert seen == set(every)
    series = jnp.arange(1.0, 9.0)[:, None]
    found = {tuple(one[:, 0].astype(int)) for one in apply("shift", series, 1.0, 60)}
    assert found == {(1, *range(1, 8)), tuple(range(1, 9)), (*range(2, 9), 8)}


def test_flips_are_as_likely_as_asked_for_and_masks_hide_whole_pixels_up_to_a_share():
    x = X[0] + 0.1
    found = apply("flip", x, 0.25, 400)
    mirrored = np.array([(one == x[:, ::-1]).all() for one in found])
    assert ((found == x).all(axis=(1, 2, 3)) | mirrored).all()
    assert mirrored.mean() == pytest.approx(0.25, abs=0.07)
    colour = jnp.ones((20, 20, 3))
    hidden = apply("mask", colour, 0.4, 200) == 0
    assert (hidden.all(axis=3) == hidden.any(axis=3)).all()
    shares = hidden.mean(axis=(1, 2, 3))
    assert shares.min() < 0.05
    assert 0.35 < shares.max() < 0.5
    assert shares.mean() == pytest.approx(0.2, abs=0.02)


# The wrapper: a probe shows what its learner's step gets.


def probe(settings=None):
    """A learner that learns nothing; its metrics are its rows and its rates."""

    def step(state, batch, key, settings):
        shown = {name: value for name, value in settings.items() if name.startswith("lr")}
        return state.replace(step=state.step + 1), {"x": batch.x, **shown}

    def init(key, x):
        return TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(1)}, {}, {})

    def infer(variables, x):
        return Outputs(x, x.reshape(len(x), -1))

    return Learner(init, step, infer, lambda row, settings: jnp.zeros(()), settings or {"lr": 1.0})


@functools.cache
def augmented_step(augment):
    return jax.jit(wrappers.augmented(probe(), resolve(augment).values()).step)


def seen(x=X, slot=None, key=KEY, step=0, augment=AUGMENT):
    """What the step of an augmented learner gets."""
    state = probe().init(key, x).replace(step=jnp.int32(step))
    rows = Batch(jnp.asarray(x), jnp.asarray(np.arange(len(x)) if slot is None else slot, "int32"))
    return np.asarray(augmented_step(augment)(state, rows, key, {})[1]["x"])


def test_a_variant_is_addressed_by_member_step_and_slot():
    order = np.random.default_rng(0).permutation(len(X))
    usual = seen()
    np.testing.assert_array_equal(seen(X[order], order), usual[order])
    half = slice(20, 40)  # the second of two devices
    np.testing.assert_array_equal(seen(X[half], np.arange(20, 40)), usual[half])
    same = np.broadcast_to(X[:1], X.shape)
    for others in (
        (seen(same), seen(same, key=jax.random.key(4))),  # another member
        (seen(same), seen(same, step=1)),
        (seen(same), seen(same, np.arange(40, 80))),
    ):
        assert all((one != other).any() for one, other in zip(*others, strict=True))
    assert len(np.unique(seen(same).reshape(40, -1), axis=0)) == 40


def test_augmentations_of_a_list_are_drawn_apart():
    """Two that draw alike would flip and hide the same rows."""
    one, other = (seen(augment=of) for of in (("mask:1",), ("flip:1", "mask:1")))
    assert ((one == 0).mean(axis=(1, 2, 3)) != (other == 0).mean(axis=(1, 2, 3))).mean() > 0.9


def test_without_augmentation_and_schedule_nothing_is_wrapped(monkeypatch):
    learner = learners.build(tiny(), SHAPE)
    for name in ("augmented", "scheduled"):
        monkeypatch.setattr(wrappers, name, lambda *args, name=name: pytest.fail(name))
    learners._built.cache_clear()
    again = learners.build(tiny(), SHAPE)
    assert again is not learner
    assert again.settings == learner.settings == {"lr": 3e-3, "noise_std": 0.1}


def test_corruptions_that_studies_use_are_the_same_as_before():
    assert {"flip", "mask"} <= set(AUGMENTATIONS)
    assert not {"flip", "mask"} & set(CORRUPTIONS)
    assert [*CORRUPTIONS] == [name for name in AUGMENTATIONS if name in CORRUPTIONS]


# Crops.


@functools.cache
def cropped_step(side, count):
    return jax.jit(wrappers.cropped(probe(), side, count).step)


def crops(x, slot=None, key=KEY, step=0, side=3, count=2):
    """What the step of a learner of crops gets: [B, count, ...]."""
    state = probe().init(key, x).replace(step=jnp.int32(step))
    rows = Batch(jnp.asarray(x), jnp.asarray(np.arange(len(x)) if slot is None else slot, "int32"))
    found = np.asarray(cropped_step(side, count)(state, rows, key, {})[1]["x"])
    return found.reshape(len(x), count, *found.shape[1:])


@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 2), (5, 2, 1)])
def test_every_crop_of_a_row_comes_equally_often(shape):
    x = np.broadcast_to(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), (300, *shape))
    sides = [min(3, n) for n in shape[:-1]]
    windows = np.lib.stride_tricks.sliding_window_view(x[0], sides, range(len(sides)))
    windows = np.moveaxis(windows, len(sides), -1).reshape(-1, *sides, shape[-1])
    found = crops(x).reshape(600, *sides, shape[-1])
    counts = np.array([(found == one).all(axis=(*range(1, found.ndim),)).sum() for one in windows])
    assert counts.sum() == 600
    assert counts.min() > 0.6 * 600 / len(windows)


def test_a_crop_is_addressed_by_member_step_slot_and_number():
    order = np.random.default_rng(0).permutation(len(X))
    usual = crops(X)
    np.testing.assert_array_equal(crops(X[order], order), usual[order])
    half = slice(20, 40)  # the second of two devices
    np.testing.assert_array_equal(crops(X[half], np.arange(20, 40)), usual[half])
    for other in (crops(X, key=jax.random.key(4)), crops(X, step=1), usual[:, ::-1]):
        assert (usual != other).any(axis=(1, 2, 3, 4)).mean() > 0.8


def test_a_crop_has_a_slot_of_its_own():
    rows = {}

    def step(state, batch, key, settings):
        rows["slot"] = batch.slot
        return state, {}

    learner = wrappers.cropped(probe()._replace(step=step), 3, 2)
    learner.step(probe().init(KEY, X), Batch(X[:2], jnp.int32([4, 1])), KEY, {})
    assert rows["slot"].tolist() == [8, 9, 2, 3]


@pytest.mark.slow
def test_the_crops_of_a_fully_convolutional_network_train_it_anywhere():
    """Whole rows are inferred; stopped, on two devices and streamed it is the same training."""
    cfg = tiny("fcn", train__crop=4, train__crops=3, train__epochs=2)
    saved = []
    whole = fitted(cfg, on_epoch=lambda n, s, found: saved.append(jax.device_get(s)) or found)
    assert_same(fitted(cfg, state=saved[0]), whole)
    assert_same(fitted(edit(cfg, {"train.feed": "streaming"})), whole)
    assert_close(fitted(cfg, 2), whole, rtol=1e-4, atol=1e-5)
    out = learners.build(cfg, SHAPE).infer(members.pick(whole.variables, 0), jnp.asarray(X))
    assert out.x_hat.shape == X.shape
    assert out.extra["code"].shape == (len(X), 4, 4, 2)  # halved once, as a crop is
    assert_same(out.extra["code"].reshape(len(X), -1), out.z)


# Training with both.

BOTH = {
    "train__augment": ("shift:2", "mask:0.3"),
    "optim__schedule": "cosine",
    "optim__warmup": 0.2,
}


def fitted(cfg, devices=1, rows=X, **more):
    learner = learners.build(cfg, rows.shape[1:])
    return train.fit(learner, rows, cfg, DEVICES[:devices], quiet=True, **more).state


def test_resumed_is_the_same_as_going_on_and_devices_do_not_matter():
    cfg = tiny(**BOTH | {"train__epochs": 3})
    saved = []
    whole = fitted(cfg, on_epoch=lambda n, s, found: saved.append(jax.device_get(s)) or found)
    assert_same(fitted(cfg, state=saved[0]), whole)
    assert_close(fitted(cfg, 2), whole, rtol=1e-4, atol=1e-6)
    plain = fitted(edit(cfg, {"train.augment": ()}))
    assert (np.abs(plain.params["encoder"]["Dense_0"]["kernel"]
                   - whole.params["encoder"]["Dense_0"]["kernel"]) > 1e-4).any()  # fmt: skip


def test_members_of_an_ensemble_see_variants_of_their_own():
    cfg = tiny(ensemble=2, train__augment=AUGMENT, train__noise_std=0.0, train__epochs=1)
    learner = learners.build(cfg, SHAPE)
    apart = train.ensemble(learner, cfg, len(X))
    same = initial(learner, size=1)  # equal weights: only the variants differ
    state = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), same)
    end = fitted(cfg, members=apart, state=state)
    first, second = (members.pick(end.params, e) for e in range(2))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def grid_of(**changes):
    """Members with 16, 40 and 24 rows of X."""
    found = []
    for seed, n in enumerate((16, 40, 24)):
        cfg = tiny(seed=seed, optim__lr=1e-3 * (seed + 1), **changes)
        settings = learners.build(cfg, SHAPE, axis=None).settings
        found.append(grid.Member(cfg, settings, np.arange(n), np.arange(8)))
    return found


def test_each_member_of_a_grid_knows_the_steps_of_its_own_rows():
    own = grid.members_of(grid_of(ensemble=2, **BOTH))
    assert own.settings["steps"].tolist() == [4, 4, 10, 10, 6, 6]


@pytest.mark.slow
def test_a_member_of_a_grid_is_the_same_as_the_member_alone():
    found = grid_of(ensemble=2, **BOTH)
    learner = learners.build(found[0].cfg, SHAPE, axis=None)
    layout = grid.layout_for(found, 1)
    own = grid.members_of(found)
    together = train.fit(learner, X, found[0].cfg, layout, members=own, quiet=True).state
    for i, member in enumerate(found):
        alone = fitted(member.cfg, rows=X[member.train])
        assert_same(members.part(layout.fetch(together), i, 2), jax.device_get(alone))


# Schedules.


def rates(schedule, warmup, steps, settings):
    learner = wrappers.scheduled(probe(settings), wrappers.SCHEDULES[schedule], warmup)
    assert learner.settings.keys() == settings.keys() | {"steps"}
    state, course, step = learner.init(KEY, X[:1]), [], jax.jit(learner.step)
    for _ in range(steps):
        state, found = step(state, batch(X[:1]), KEY, settings | {"steps": jnp.float32(steps)})
        course.append({name: float(value) for name, value in found.items() if name != "x"})
    return {name: np.array([found[name] for found in course]) for name in course[0]}


def test_the_cosine_is_that_of_optax():
    expected = [float(optax.cosine_decay_schedule(0.3, 50)(t)) for t in range(50)]
    found = rates("cosine", 0.0, 50, {"lr": 0.3, "lr_discriminator": 0.2, "noise_std": 0.1})
    np.testing.assert_allclose(found["lr"], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["lr_discriminator"], found["lr"] / 1.5, rtol=1e-6)
    assert found.keys() == {"lr", "lr_discriminator"}


@pytest.mark.parametrize("schedule", wrappers.SCHEDULES)
def test_in_the_warm_up_rates_rise_in_equal_steps_to_the_full_one(schedule):
    found = rates(schedule, 0.2, 50, {"lr": 2.0})["lr"]
    np.testing.assert_allclose(found[:10], 0.2 * np.arange(1, 11), rtol=1e-5)
    after = np.full(40, 2.0) if schedule == "constant" else 1 + np.cos(np.pi * np.arange(40) / 40)
    np.testing.assert_allclose(found[10:], after, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (3, 0.999)])
def test_the_shortest_trainings_have_rates_too(steps, warmup):
    found = rates("cosine", warmup, steps, {"lr": 1.0})["lr"]
    assert np.isfinite(found).all()
    assert ((found > 0) & (found <= 1)).all()


def test_training_uses_the_rates_of_its_own_number_of_steps(monkeypatch):
    """In epochs of one step, so that what an epoch measures is what the step got."""

    def build(cfg, shape, axis):
        inner = probe({"lr": cfg.optim.lr})

        def step(state, batch, key, settings):
            new, found = inner.step(state, batch, key, settings)
            return new, {"loss": found["lr"]}

        return inner._replace(step=step)

    monkeypatch.setitem(learners.METHODS, "probe", learners.Method(build, frozenset()))
    cfg = tiny("probe", train__epochs=10, train__batch_size=40, optim__schedule="cosine")
    course, states = {}, {}

    def on_epoch(epoch, state, found):
        course[epoch], states[epoch] = found["loss"][0], jax.device_get(state)
        return found

    fitted(cfg, on_epoch=on_epoch)
    whole = dict(course)
    expected = 3e-3 * rates("cosine", 0.0, 10, {"lr": 1.0})["lr"]
    np.testing.assert_allclose([whole[n] for n in range(1, 11)], expected, rtol=1e-5, atol=1e-9)
    course.clear()
    fitted(cfg, on_epoch=on_epoch, state=states[4])
    assert course == {n: whole[n] for n in range(5, 11)}


def test_a_method_without_a_rate_is_refused():
    with pytest.raises(UserError, match=r"optim\.schedule and .* need a method with a setting lr"):
        wrappers.scheduled(probe({"speed": 1.0}), wrappers.SCHEDULES["cosine"], 0.0)


# Runs: what they are made of, and what is refused.


def test_they_are_part_of_what_a_run_is_and_older_runs_have_none():
    cfg = tiny()
    for changes in BOTH.items():
        other = tiny(**dict([changes]))
        assert training_identity(other) != training_identity(cfg)
        assert from_dict(to_dict(other)) == other
    stored = to_dict(cfg)
    del stored["train"]["augment"], stored["optim"]["schedule"], stored["optim"]["warmup"]
    assert training_identity(from_dict(stored)) == training_identity(cfg)
    args = "--train.augment rotation:5 mask:0.1 --optim.schedule cosine --optim.warmup 0.1"
    assert parse_cli(cfg, args.split()).train.augment == ("rotation:5", "mask:0.1")


def test_a_scheduled_run_does_not_go_on_for_more_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda *args: [])
    name, run = f"npz:{write_npz(tmp_path / 'own.npz')}", str(tmp_path / "run")
    cfg = tiny(optim__warmup=0.1, devices=1, data__name=name, run_dir=run)
    report = experiment.run(cfg)
    with pytest.raises(UserError, match=r"optim\.schedule is 'constant over 2 epochs' there and "):
        experiment.run(edit(cfg, {"train.epochs": 3}))
    assert experiment.run(edit(cfg, {"score": "mae"}))["digest"] != report["digest"]


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (("rotate:3",), r"unknown augmentation 'rotate'; known: .*rotation"),
        (("flip",), r"'flip' needs a number above 0 and at most 1 \(probability\), as flip:0\.5"),
        (("flip:1.5",), "'flip:1.5' needs a number"),
        (("noise:0",), "'noise:0' needs a number"),
        (("noise:-1",), "'noise:-1' needs a number"),
        (("noise:nan",), "'noise:nan' needs a number"),
        (("rotation:inf",), "'rotation:inf' needs a number above 0"),
        (("shift:1.5",), "'shift:1.5' needs a number above 0 .whole pixels"),
        (("noise:.1", "flip:.5", "noise:.2"), "train.augment lists noise twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(specs, words):
    with pytest.raises(UserError, match=words):
        experiment.check(tiny(train__augment=specs))


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        (
            "drift:.1",
            (8, 8, 1),
            r"drift works on series .*, not on rows of shape \[8, 8, 1\]",
        ),
        ("flip:.5", (8, 2), r"flip works on images .*; use .*time_warp"),
        ("rotation:5", (8,), r"rotation works on images .* \[8\]; use noise, mask$"),
        ("shift:2", (8,), r"shift works on series \[T, C\] or images"),
        ("shift:8", (8, 9, 1), r"shift:8 is too far .*use at most 7"),
        ("shift:1", (1, 9, 1), r"shift:1 is too far .*leave it out"),
    ],
)
def test_augmentations_that_do_not_fit_the_rows_are_refused(spec, shape, words):
    with pytest.raises(UserError, match=words):
        check_rows((spec,), np.zeros((4, *shape), np.float32))


def test_images_out_of_range_are_refused_where_black_is_meant():
    x = 2 * X - 1
    check_rows(("flip:.5", "mask:.1"), x)
    for name in ("rotation:5", "noise:.1", "shift:1"):
        with pytest.raises(UserError, match=r"needs images with values in \[0, 1\]; use --data"):
            learners.check_rows(tiny(train__augment=(name,), model__output_activation="linear"), x)


def test_a_learner_starts_with_the_weights_that_it_has_without_wrappers():
    assert_same(start(tiny(**BOTH))[1], start(tiny())[1])
