import dataclasses
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxae import data
from jaxae.config import DataConfig
from jaxae.data import sources, splits
from jaxae.data.raw_data import Raw, to_float
from jaxae.devices import tuning
from jaxae.errors import UserError
from jaxae.types import Source


def make_raw(n_train=60, n_test=40, classes=4, shape=(3,), seed=0):
    rng = np.random.default_rng(seed)
    return Raw(
        rng.normal(2.0, 3.0, (n_train, *shape)).astype(np.float32),
        (np.arange(n_train) % classes).astype(np.int32),
        rng.normal(2.0, 3.0, (n_test, *shape)).astype(np.float32),
        (np.arange(n_test) % classes).astype(np.int32),
    )


def pool_x(raw):
    return np.concatenate([raw.x_train, raw.x_test])


def pool_class_id(raw):
    return np.concatenate([raw.train_class_id, raw.test_class_id])


def assert_contract(made, valid_in_test=False):
    for split in (made.train, made.valid, made.test):
        n = len(split.x)
        assert n > 0
        assert split.x.shape == (n, *made.shape)
        assert split.x.dtype == np.float32
        assert np.isfinite(split.x).all()
        assert [a.dtype for a in split[1:]] == [np.bool_, np.int32, np.int64]
        assert all(a.shape == (n,) for a in split[1:])
        assert len(np.unique(split.id)) == n
    assert not made.train.y.any()
    assert not made.valid.y.any()
    assert made.test.y.any()
    assert not made.test.y.all()
    for constant in made.scaling:
        assert constant.dtype == np.float32
        assert constant.ndim == len(made.shape)
        assert np.broadcast_shapes(constant.shape, made.shape) == made.shape
    assert (made.scaling.scale > 0).all()
    assert np.dtype(made.dtype).kind in "uf"  # that of the raw rows
    train, valid, test = (set(split.id) for split in (made.train, made.valid, made.test))
    assert not train & valid
    assert not train & test
    assert valid <= test if valid_in_test else not valid & test


# index_plan


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 500),
    per_device=st.integers(1, 5),
    extra=st.integers(0, 60),
)
def test_plan_shows_every_row_and_ignores_the_number_of_devices(seed, epoch, per_device, extra):
    batch = 4 * per_device
    n = batch + extra
    steps = -(-n // batch)
    plans = {d: data.index_plan(seed, epoch, n, batch, d) for d in (1, 2, 4)}
    for devices, plan in plans.items():
        assert plan.shape == (devices, steps, batch // devices)
        assert plan.dtype == np.int32
        glued = plan.swapaxes(0, 1).reshape(-1)
        np.testing.assert_array_equal(glued, plans[1].reshape(-1))
    order = plans[1].reshape(-1)
    np.testing.assert_array_equal(np.sort(order[:n]), np.arange(n))
    np.testing.assert_array_equal(order[n:], order[: len(order) - n])


def test_plan_depends_on_seed_and_epoch_only():
    plan = data.index_plan(1, 2, 100, 10, 1)
    np.testing.assert_array_equal(plan, data.index_plan(1, 2, 100, 10, 1))
    assert (plan != data.index_plan(1, 3, 100, 10, 1)).any()
    assert (plan != data.index_plan(2, 2, 100, 10, 1)).any()


def test_plan_mixes_rows():
    first = np.array([data.index_plan(0, epoch, 10, 5, 1)[0, 0, 0] for epoch in range(300)])
    assert np.bincount(first, minlength=10).min() > 10  # expected 30 each


@pytest.mark.parametrize(
    ("n", "batch", "devices", "says"),
    [
        (7, 8, 1, "train.batch_size 8 exceeds the 7 training rows"),
        (70, 10, 4, "train.batch_size 10 is not divisible by 4 devices"),
    ],
)
def test_plan_rejects(n, batch, devices, says):
    with pytest.raises(UserError, match=says):
        data.index_plan(0, 0, n, batch, devices)


# Splits


@settings(deadline=None, max_examples=60)
@given(
    split=st.sampled_from(["official", "random"]),
    valid=st.sampled_from(["holdout", "test"]),
    scale=st.sampled_from(["none", "minmax", "standard"]),
    normal=st.sampled_from([(), (0,), (1, 2)]),
    anomaly=st.sampled_from([(3,), (3, 0)]),
    limit=st.sampled_from([0, 5]),
    split_seed=st.integers(0, 1000),
)
def test_every_combination_keeps_the_contract(
    split, valid, scale, normal, anomaly, limit, split_seed
):
    anomaly = tuple(k for k in anomaly if k not in normal)
    cfg = DataConfig(
        split=split, valid=valid, scale=scale, normal=normal, anomaly=anomaly, limit=limit
    )
    raw = make_raw(80, 80)
    made = splits.make(raw, cfg)
    assert_contract(made, valid_in_test=valid == "test")
    assert made.dtype == "float32"
    for part in (made.train, made.valid, made.test):
        np.testing.assert_array_equal(part.class_id, pool_class_id(raw)[part.id])
        back = part.x * made.scaling.scale + made.scaling.shift
        np.testing.assert_allclose(back, pool_x(raw)[part.id], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(part.y, np.isin(part.class_id, anomaly))


@settings(deadline=None, max_examples=40)
@given(
    settings=st.fixed_dictionaries(
        {
            "split": st.sampled_from(["official", "random"]),
            "valid": st.sampled_from(["holdout", "test"]),
            "limit": st.sampled_from([0, 5]),
            "balance": st.booleans(),
            "split_seed": st.integers(0, 1000),
        }
    ),
    trained=st.sampled_from([None, 0, 3]),
)
def test_the_truth_of_places_stays_with_its_rows(settings, trained):
    raw = make_raw(60, 240, classes=8)
    known = (np.arange(300)[:, None] >> np.arange(9)) % 2 == 1  # each row is known by its places
    y_train = None if trained is None else np.where(np.arange(60) % 9, 0, trained).astype(np.int32)
    raw = raw._replace(train_class_id=y_train, test_place_y=known[60:])
    made = splits.make(raw, DataConfig(normal=(0,), **settings))
    places, test = made.test_place_y, made.test
    if trained == 3 and (test.y & (test.id < 60)).any():  # nobody knows their places
        assert places is None
        return
    np.testing.assert_array_equal(places, known[test.id] & test.y[:, None], strict=True)


def test_official_split_keeps_the_sources_order():
    raw = make_raw()
    made = splits.make(raw, DataConfig(normal=(1,)))
    np.testing.assert_array_equal(made.test.id, np.arange(60, 100))
    assert (np.diff(made.train.id) > 0).all()
    assert (np.diff(made.valid.id) > 0).all()
    both = np.sort(np.concatenate([made.train.id, made.valid.id]))
    np.testing.assert_array_equal(both, np.flatnonzero(raw.train_class_id == 1))
    assert len(made.valid.id) == round(0.1 * 15)


@pytest.mark.parametrize(("seed", "fraction"), [(21, 0.2), (0, 1 / 3), (2**32 - 1, 0.515)])
def test_random_split_is_scikit_learns(seed, fraction):
    from sklearn.model_selection import train_test_split

    raw, how = make_raw(), {"split": "random", "test_fraction": fraction, "split_seed": seed}
    made = splits.make(raw, DataConfig(normal=(0,), valid="test", **how))
    train, test = train_test_split(np.arange(100), test_size=fraction, random_state=seed)
    np.testing.assert_array_equal(made.test.id, test)
    np.testing.assert_array_equal(made.train.id, train[pool_class_id(raw)[train] == 0])


def test_split_seed_redraws_the_holdout_only():
    rows = [
        splits.make(make_raw(), DataConfig(normal=(0, 1), split_seed=seed)) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(rows[0].valid.id, rows[1].valid.id)
    assert set(rows[0].valid.id) != set(rows[2].valid.id)
    np.testing.assert_array_equal(rows[0].test.id, rows[2].test.id)


def test_limit_takes_the_first_rows_after_the_holdout():
    whole, part = (
        splits.make(make_raw(), DataConfig(normal=(0,), limit=limit)) for limit in (0, 6)
    )
    np.testing.assert_array_equal(part.train.id, whole.train.id[:6])
    np.testing.assert_array_equal(part.valid.id, whole.valid.id)


def test_balance_draws_as_many_anomalies_in_order():
    raw = make_raw()
    made, whole = (splits.make(raw, DataConfig(normal=(2,), balance=b)) for b in (True, False))
    assert made.test.y.sum() == (~made.test.y).sum() == 10
    assert (np.diff(made.test.id) > 0).all()
    assert set(made.test.id) < set(whole.test.id)
    again = splits.make(raw, DataConfig(normal=(2,), balance=True))
    np.testing.assert_array_equal(made.test.id, again.test.id)
    with pytest.raises(UserError, match="there are 10 against 30"):
        splits.make(raw, DataConfig(anomaly=(2,), balance=True))


def test_pixels_become_fractions():
    raw = make_raw(shape=(4, 4, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 1), np.uint8)
    raw = raw._replace(x_train=pixels[:60], x_test=pixels[60:])
    made = splits.make(raw, DataConfig(normal=(0,)))
    assert made.dtype == "uint8"
    np.testing.assert_allclose(made.test.x, pixels[60:] / 255, rtol=1e-6)
    assert to_float(pixels).max() <= 1


# Scaling


@pytest.mark.parametrize("how", ["minmax", "standard"])
def test_scaling_is_fitted_on_training_rows_only(how):
    raw = make_raw(shape=(5, 1))
    cfg = DataConfig(normal=(0,), scale=how)
    made = splits.make(raw, cfg)
    held_out = raw.x_train.copy()
    held_out[made.valid.id] += 1000
    moved = splits.make(raw._replace(x_train=held_out, x_test=raw.x_test * 50 + 7), cfg)
    np.testing.assert_array_equal(made.scaling.shift, moved.scaling.shift)
    np.testing.assert_array_equal(made.scaling.scale, moved.scaling.scale)
    np.testing.assert_array_equal(made.train.x, moved.train.x)


def test_minmax_spans_the_training_part_of_any_class():
    raw = make_raw(shape=(5, 1))
    made = splits.make(raw, DataConfig(normal=(0,), scale="minmax", valid="test"))
    assert made.scaling.shift.item() == raw.x_train.min()
    np.testing.assert_allclose(made.scaling.scale.item(), np.ptp(raw.x_train), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (5, 2), (4, 4, 3)])
def test_standard_scaling_agrees_with_numpy(shape):
    made = splits.make(make_raw(shape=shape), DataConfig(normal=(0,), scale="standard"))
    axes = (0, 1, 2) if len(shape) == 3 else (0,)
    np.testing.assert_allclose(made.train.x.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(made.train.x.std(axes), 1, rtol=1e-4)


@pytest.mark.parametrize("how", ["minmax", "standard"])
def test_constant_features_are_not_blown_up(how):
    raw = make_raw()
    raw = raw._replace(
        x_train=np.full_like(raw.x_train, 0.1), x_test=np.full_like(raw.x_test, 0.35)
    )
    made = splits.make(raw, DataConfig(normal=(0,), scale=how))
    np.testing.assert_allclose(made.train.x, 0, atol=1e-6)
    np.testing.assert_allclose(made.test.x, 0.25, atol=1e-6)


# Rows that do not lie in memory

BLOCK = 7  # rows read at a time, far fewer than there are


class Counted:
    """Rows by index that do not lie in memory; it counts how many are asked for at once."""

    def __init__(self, rows):
        self._rows, self.most = rows, 0
        self.shape, self.dtype = rows.shape, rows.dtype

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        found = self._rows[index].copy()
        self.most = max(self.most, len(found))
        return found


def in_a_file(rows, folder):
    path = folder / f"{len(list(folder.iterdir()))}.rows"
    filed = np.memmap(path, rows.dtype, "w+", shape=rows.shape)
    filed[:] = rows
    return filed


KINDS = {"counted": lambda rows, folder: Counted(rows), "in a file": in_a_file}


@pytest.fixture(params=KINDS)
def elsewhere(request, tmp_path, monkeypatch):
    """Rows -> a source of the same rows that does not lie in memory, to be read in blocks."""
    monkeypatch.setattr(tuning, "BLOCK", BLOCK)
    (tmp_path / "sources").mkdir()
    return lambda rows: KINDS[request.param](rows, tmp_path / "sources")


@pytest.mark.parametrize("scale", ["none", "minmax", "standard"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize(
    "choice",
    [
        {"normal": (0,)},
        {"normal": (0, 2), "split": "random", "valid": "test"},
        {"normal": (1,), "limit": 6, "balance": True},
        {"normal": (0, 1), "corruption": "noise:0.1"},
    ],
    ids="-".join,
)
def test_rows_that_do_not_lie_in_memory_are_split_and_scaled_alike(elsewhere, scale, dtype, choice):
    raw = make_raw(shape=(5, 2))
    if dtype == np.uint8:
        raw = raw._replace(
            **{n: (40 * np.abs(getattr(raw, n))).astype(np.uint8) for n in ("x_train", "x_test")}
        )
    there = raw._replace(x_train=elsewhere(raw.x_train), x_test=elsewhere(raw.x_test))
    cfg = DataConfig(scale=scale, **choice)
    expected, made = splits.make(raw, cfg), splits.make(there, cfg)
    assert made.shape == expected.shape
    assert made.dtype == expected.dtype
    exactly = scale != "standard"
    for one, other in zip(made.scaling, expected.scaling, strict=True):
        np.testing.assert_allclose(one, other, rtol=0 if exactly else 1e-6, strict=True)
    np.testing.assert_array_equal(made.test_digests(), expected.test_digests(), strict=True)
    for part in ("train", "valid", "test"):
        one, other = getattr(made, part), getattr(expected, part)
        for a, b in zip(one[1:], other[1:], strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
        assert one.x.shape == other.x.shape
        assert one.x.dtype == other.x.dtype
        read = sources.read(one.x)
        tolerance = {"rtol": 0} if exactly else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(read, other.x, strict=True, **tolerance)


def test_test_rows_are_identified_by_their_values_alone():
    """Not by scale, input, seed, training rows or order; a changed value changes one digest."""
    raw = make_raw(shape=(5, 2))
    cfg = DataConfig(normal=(0,), split_seed=1)
    digests = splits.make(raw, cfg).test_digests()
    assert len(np.unique(digests)) == len(digests) == len(raw.x_test)
    for others in ({"scale": "standard"}, {"scale": "minmax", "split_seed": 2}, {"limit": 5}):
        other = splits.make(raw, dataclasses.replace(cfg, **others))
        np.testing.assert_array_equal(other.test_digests(), digests)
    order = np.random.default_rng(0).permutation(len(digests))
    shuffled = raw._replace(x_test=raw.x_test[order], test_class_id=raw.test_class_id[order])
    np.testing.assert_array_equal(splits.make(shuffled, cfg).test_digests(), digests[order])
    changed = raw.x_test.copy()
    changed[3, 4, 1] = np.nextafter(changed[3, 4, 1], 9)
    found = splits.make(raw._replace(x_test=changed), cfg).test_digests()
    np.testing.assert_array_equal(np.flatnonzero(found != digests), [3])


def test_corrupted_copies_are_identified_by_what_corrupted_them():
    raw, found = make_raw(shape=(8, 8, 1)), []
    for corruption, seed in (("noise:0.1", 0), ("noise:0.2", 0), ("noise:0.1", 1)):
        cfg = DataConfig(corruption=corruption, split_seed=seed, normal=(0, 1))
        found.append(splits.make(raw, cfg).test_digests())
    clean, copies = np.split(np.stack(found), 2, axis=1)
    assert (clean == clean[0]).all()
    assert len(np.unique(copies)) == copies.size
    assert not np.isin(copies, clean).any()


@pytest.mark.parametrize("scale", ["none", "minmax", "standard"])
@pytest.mark.parametrize("split", ["official", "random"])
def test_fitting_the_scaling_asks_for_a_block_at_a_time(scale, split, monkeypatch):
    monkeypatch.setattr(tuning, "BLOCK", BLOCK)
    raw = make_raw()
    x_train, x_test = Counted(raw.x_train), Counted(raw.x_test)
    raw = raw._replace(x_train=x_train, x_test=x_test)
    made = splits.make(raw, DataConfig(normal=(0, 1), scale=scale, split=split))
    asked = x_train.most, x_test.most
    assert 0 < max(asked) <= BLOCK  # without scaling, too: the digest is of a sample of the rows
    sources.read(made.train.x)
    assert max(x_train.most, x_test.most) <= BLOCK


INDICES = {
    "all": slice(None),
    "slice": slice(5, 31, 3),
    "backwards": slice(None, None, -1),
    "empty": slice(4, 4),
    "mask": np.arange(100) % 3 == 0,
    "positions": np.array([99, 0, 59, 60, 60, 7]),
    "from the end": np.array([-1, -100, -41]),
    "none": np.array([], np.int64),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_joined_and_viewed_sources_are_indexed_as_arrays_are(elsewhere, index):
    raw = make_raw(shape=(4, 2))
    rows = pool_x(raw)
    pool = sources.joined(elsewhere(raw.x_train), elsewhere(raw.x_test))
    np.testing.assert_array_equal(pool[index], rows[index], strict=True)
    some = np.random.default_rng(1).permutation(100)
    view = sources.view(pool, some, lambda x: 2 * x)
    np.testing.assert_array_equal(view[index], 2 * rows[some][index], strict=True)
    for source in (pool, view):
        assert isinstance(source, Source)
        assert len(source) == len(rows) == source.shape[0]
        assert source.shape == rows.shape
        assert source.dtype == rows.dtype


def test_blocks_are_all_rows_in_order(elsewhere):
    raw = make_raw(shape=(4, 2))
    pool = sources.joined(elsewhere(raw.x_train), elsewhere(raw.x_test))
    for source, rows in (
        (elsewhere(raw.x_train), raw.x_train),
        (pool, pool_x(raw)),
        (sources.view(pool, np.arange(9, 99), lambda x: x), pool_x(raw)[9:99]),
    ):
        assert not sources.is_resident(source)
        parts = list(sources.blocks(source))
        assert [len(part) for part in parts[:-1]] == [BLOCK] * (len(parts) - 1)
        assert 0 < len(parts[-1]) <= BLOCK
        np.testing.assert_array_equal(np.concatenate(parts), rows)
        np.testing.assert_array_equal(sources.read(source), rows, strict=True)
        assert type(sources.read(source)) is np.ndarray


def test_rows_in_memory_stay_one_array():
    raw = make_raw()
    assert sources.is_resident(raw.x_train)
    (block,) = sources.blocks(raw.x_train)
    assert block.base is raw.x_train
    assert sources.read(raw.x_train) is raw.x_train
    pool = sources.joined(raw.x_train, raw.x_test)
    np.testing.assert_array_equal(pool, pool_x(raw), strict=True)
    chosen = sources.view(pool, np.array([70, 3]), lambda x: x - 1)
    np.testing.assert_array_equal(chosen, pool_x(raw)[[70, 3]] - 1, strict=True)


def test_rows_of_which_only_some_lie_in_memory_are_joined(elsewhere):
    raw = make_raw()
    for pool in (
        sources.joined(elsewhere(raw.x_train), raw.x_test),
        sources.joined(raw.x_train, elsewhere(raw.x_test)),
    ):
        assert not sources.is_resident(pool)
        np.testing.assert_array_equal(sources.read(pool), pool_x(raw), strict=True)


# Classes and errors


@pytest.mark.parametrize(
    ("normal", "anomaly", "expected"),
    [
        ((1,), (), ({1}, {0, 2, 3})),
        ((), (2,), ({0, 1, 3}, {2})),
        ((0, 1), (3,), ({0, 1}, {3})),
    ],
)
def test_empty_stands_for_the_rest(normal, anomaly, expected):
    made = splits.make(make_raw(), DataConfig(normal=normal, anomaly=anomaly))
    assert set(made.train.class_id) == expected[0]
    assert set(made.test.class_id[~made.test.y]) == expected[0]
    assert set(made.test.class_id[made.test.y]) == expected[1]


def test_unlabelled_training_rows_are_normal():
    raw = make_raw(classes=2)._replace(train_class_id=None)
    made = splits.make(raw, DataConfig())
    assert_contract(made)
    assert len(made.train.x) + len(made.valid.x) == 60
    np.testing.assert_array_equal(made.test.y, raw.test_class_id == 1)
    several = make_raw(classes=4)._replace(train_class_id=None)
    made = splits.make(several, DataConfig(normal=(1, 3)))
    assert len(made.train.x) + len(made.valid.x) == 60
    np.testing.assert_array_equal(made.test.y, np.isin(several.test_class_id, (0, 2)))
    with pytest.raises(UserError, match="are normal is not known"):
        splits.make(several, DataConfig())


def without(raw, part, class_id):
    keep = getattr(raw, f"{part}_class_id") != class_id
    names = f"x_{part}", f"{part}_class_id"
    return raw._replace(**{name: getattr(raw, name)[keep] for name in names})


@pytest.mark.parametrize(
    ("raw", "cfg", "says"),
    [
        (make_raw(), {}, "classes 0, 1, 2, 3 are normal is not known; add .* --data.normal 0"),
        (make_raw(), {"normal": (0, 1, 2, 3)}, "no anomalies because every class"),
        (make_raw(), {"anomaly": (0, 1, 2, 3)}, "names every class"),
        (make_raw(), {"normal": (7,)}, r"data.normal names the classes 7.*are of 0, 1, 2, 3"),
        (make_raw(), {"anomaly": (-1,)}, "data.anomaly names the classes -1"),
        (without(make_raw(), "train", 1), {"normal": (0, 1)}, "classes 1, but no training rows"),
        (without(make_raw(), "test", 1), {"anomaly": (1,)}, "classes 1, but no test rows"),
        (without(make_raw(classes=2), "test", 1), {"normal": (0,)}, "holds no rows of the classes"),
        (without(make_raw(), "test", 1), {"normal": (1,)}, "the test set has no normal rows"),
        (make_raw(n_train=4), {"normal": (0,)}, "data.valid_fraction 0.1 of 1 normal"),
        (make_raw(), {"normal": (0,), "split_seed": -1}, "data.split_seed is -1"),
        (
            make_raw(),
            {"split": "random", "normal": (0,), "test_fraction": 0.999},
            "data.test_fraction 0.999 of 100 rows",
        ),
        (make_raw(), {"corruption": "negative:1", "anomaly": (1,)}, "cannot name them too"),
    ],
)
def test_choices_that_cannot_work(raw, cfg, says):
    with pytest.raises(UserError, match=says):
        splits.make(raw, DataConfig(**cfg))


def test_unlabelled_test_set_of_anomalies_only():
    raw = make_raw()._replace(train_class_id=None, test_class_id=np.ones(40, np.int32))
    with pytest.raises(UserError, match="no normal rows"):
        splits.make(raw, DataConfig())


@pytest.mark.parametrize("valid", ["holdout", "test"])
def test_corrupted_copies_are_the_anomalies(monkeypatch, valid):
    calls = []

    def corrupt(spec, x, seed):
        calls.append((spec, seed))
        return 1 - x

    monkeypatch.setitem(
        sys.modules, "jaxae.data.corruptions", types.SimpleNamespace(corrupt=corrupt)
    )
    made = splits.make(
        make_raw()._replace(test_place_y=np.ones((40, 3), bool)),
        DataConfig(corruption="negative:1", normal=(0, 2), valid=valid, split_seed=5),
    )
    assert_contract(made, valid_in_test=valid == "test")
    assert made.test_place_y is None
    assert calls == [("negative:1", 5)]
    clean, copies = np.split(np.arange(len(made.test.x)), 2)
    np.testing.assert_array_equal(made.test.y, np.repeat([False, True], len(clean)))
    np.testing.assert_array_equal(made.test.x[copies], 1 - made.test.x[clean])
    np.testing.assert_array_equal(made.test.id[copies], -(1 + made.test.id[clean]))
    np.testing.assert_array_equal(made.test.class_id[copies], made.test.class_id[clean])
    assert set(made.test.class_id) == {0, 2}


def test_corruption_of_images_without_any_anomalous_class():
    made = data.load(DataConfig(name="digits", corruption="rotation:90", normal=(7,)))
    assert_contract(made)
    clean, copies = np.split(made.test.x, 2)
    np.testing.assert_allclose(copies, np.rot90(clean, axes=(1, 2)), atol=1e-5)


# By name


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * n.startswith("defects")) for n in data.DATASETS],
)
def test_every_registered_dataset_keeps_the_contract(name, request):
    is_shipped = name.startswith(("digits", "defects"))
    folder = "" if is_shipped else str(request.getfixturevalue("data_dir"))
    normal = () if name.startswith("defects") else (1,)
    made = data.load(DataConfig(name=name, dir=folder, normal=normal, limit=500))
    assert_contract(made)
    if len(made.shape) == 3:
        assert made.train.x.min() >= 0
        assert made.train.x.max() <= 1


def test_npz_by_name(tmp_path):
    raw = make_raw(classes=2, shape=(4, 5, 1))
    np.savez(
        tmp_path / "mine.npz", x_train=raw.x_train, x_test=raw.x_test, y_test=raw.test_class_id
    )
    made = data.load(DataConfig(name=f"npz:{tmp_path / 'mine.npz'}"))
    assert_contract(made)
    assert made.shape == (4, 5, 1)
    np.testing.assert_array_equal(made.test.x, raw.x_test)


@pytest.mark.parametrize("name", ["cifar", "npz:", "npz", ""])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(UserError, match=r"unknown dataset .*digits, ecg5000, .*npz:PATH"):
        data.load(DataConfig(name=name))


def test_ecg_split_of_the_tutorial(data_dir):
    cfg = DataConfig(
        name="ecg5000",
        dir=str(data_dir),
        normal=(1,),
        split="random",
        split_seed=21,
        scale="minmax",
        valid="test",
    )
    made = data.load(cfg)
    assert_contract(made, valid_in_test=True)
    assert (~made.test.y).sum() == 576
    assert made.test.y.sum() == 424
    assert len(made.train.x) == 2919 - 576
    assert made.scaling.scale.shape == (1, 1)
