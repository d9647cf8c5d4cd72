"""From raw arrays to train, valid and test: a pure function of arrays and configuration.

Train and valid contain only normals, test contains both. No row is in two of them, unless
`valid = "test"`: then the valid rows are the normal rows of test.
"""

import hashlib
import math
import shlex
from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np
from jaxtyping import Bool, Int, UInt64

from jaxae.config import DataConfig
from jaxae.data import inputs, sources, trimming
from jaxae.data.own.class_names import is_eliminated
from jaxae.data.own.schema import Schema
from jaxae.data.raw_data import Raw, fit_scaling, scaled
from jaxae.errors import UserError
from jaxae.rng import Purpose, SplitDraw, host_generator
from jaxae.types import Dataset, Scaling, Source, Split

_MOST = 0.6  # the share of rows from which the class of most rows, of -1 and 1, is normal
FEWEST = 2  # training rows: with a single one, a model learns the row itself


def make(raw: Raw, cfg: DataConfig) -> Dataset:
    """Choose rows, scale them and corrupt copies, as configured.

    A row's `id` is its position in the pool: the training rows as published, then the test rows.
    The corrupted copy of row i has the id -(1 + i). Rows that are not in memory are read when they
    are needed.

    Raises:
      UserError: a class has no rows, the test set has no anomalies or no normals, or there are too
        few rows to hold some out or to balance.
    """
    if not 0 <= cfg.split_seed < 2**32:
        raise UserError(f"data.split_seed is {cfg.split_seed}; it must be from 0 to 2**32 - 1")
    if not raw.is_labelled:
        made = of_normals(raw.x_train, cfg, raw.group, raw.schema)
        digests = _test_digests(raw.x_train, made.test.id, cfg)
        return made._replace(names=raw.names, test_digests=digests, steps=raw.steps)
    normal, anomaly = choose_classes(raw, cfg)
    pool = sources.joined(raw.x_train, raw.x_test)
    train_class_id = raw.train_class_id
    if train_class_id is None:
        train_class_id = np.full(len(raw.x_train), min(normal))
    class_id = np.concatenate([train_class_id, raw.test_class_id]).astype(np.int32)
    is_anomaly = ~np.isin(class_id, normal)
    train_part, test_part = _parts(len(raw.x_train), len(class_id), cfg)
    if raw.train_class_id is not None:
        _require_classes(raw, cfg, "normal", class_id[train_part], "training rows")
    _require_classes(raw, cfg, "anomaly", class_id[test_part], "test rows")

    train_normal, test_normal = (part[~is_anomaly[part]] for part in (train_part, test_part))
    for role, normals in (("training", train_normal), ("test", test_normal)):
        if not normals.size:
            raise UserError(
                f"the {role} set has no normal rows (data.normal "
                f"{_listed(normal, raw)}); name other classes or another split"
            )
    train, valid, left_out = _train_and_valid(pool, train_normal, test_normal, raw.group, cfg)
    test = test_part[np.isin(class_id[test_part], [*normal, *anomaly])]
    if len(test) == len(test_normal) and not cfg.corruption:
        raise UserError(
            "the test set has no anomalies: it holds no rows of the classes "
            f"{_listed(anomaly, raw)}; set data.anomaly, data.corruption or another split"
        )
    if cfg.balance and not cfg.corruption:
        test = _balance(test, ~is_anomaly[test], cfg)

    unused = np.concatenate([valid, left_out])
    fitted_on = train if cfg.scale == "standard" else np.setdiff1d(train_part, unused, True)
    scaling = fit_scaling(cfg.scale, pool, fitted_on, raw.schema.features)
    data = _dataset(pool, is_anomaly, class_id, (train, valid, test), scaling)
    if cfg.corruption:  # of copies, which lie nowhere, no place is known
        data = data._replace(test=_with_corrupted(data.test, cfg))
    else:
        place_y = _place_y(raw, test, is_anomaly[test])
        data = data._replace(test_place_y=place_y, steps=raw.steps)
    digest = _digest(pool, class_id, train, valid, test)
    digests = _test_digests(pool, test, cfg)
    return _through_input(data, cfg.input)._replace(
        digest=digest, schema=raw.schema, left_out=len(left_out), test_digests=digests
    )


def _place_y(
    raw: Raw, test: Int[np.ndarray, " N"], y: Bool[np.ndarray, " N"]
) -> Bool[np.ndarray, " N *P"] | None:
    """The truth of the places of test rows, given by their positions in the pool and their truth.

    Normal rows have no anomalous place. Those of training rows that are anomalies, which a random
    split may test, are unknown.
    """
    known, published = raw.test_place_y, test - len(raw.x_train)
    if known is None or (y & (published < 0)).any():
        return None
    place_y = np.zeros((len(test), *known.shape[1:]), bool)
    place_y[y] = known[published[y]]
    return place_y


def _train_and_valid(
    pool: Source,
    normals: np.ndarray,
    test_normals: np.ndarray,
    group: np.ndarray | None,
    cfg: DataConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The training rows, the valid rows, and those that `data.contamination` leaves out."""
    kept = normals
    if cfg.contamination:
        kept = trimming.kept(pool, normals, cfg.contamination, cfg.split_seed)
    left_out = np.setdiff1d(normals, kept, True)
    if cfg.valid == "test":
        return kept[: cfg.limit or None], test_normals, left_out
    train, valid = _hold_out(kept, None if group is None else group[kept], cfg)
    return train[: cfg.limit or None], valid, left_out


def of_normals(
    x: Source, cfg: DataConfig, group: np.ndarray | None = None, schema: Schema | None = None
) -> Dataset:
    """A data set of unlabelled rows, all treated as normal; the test rows are the held-out rows.

    Rows of one `group` [N] are held out together; see `_hold_out` for [N, G]. `schema` says how the
    rows were read from files.

    Raises:
      UserError: there are too few rows to hold some out.
    """
    rows = np.arange(len(x))
    train, valid, left_out = _train_and_valid(x, rows, rows[:0], group, cfg)
    return _unlabelled(x, cfg, train, valid, schema)._replace(left_out=len(left_out))


def all_normals(x: Source, cfg: DataConfig) -> Dataset:
    """As `of_normals`, but no row is held out: train, valid and test are all rows."""
    rows = np.arange(len(x))
    return _unlabelled(x, cfg, rows, rows, None)


def _unlabelled(
    x: Source, cfg: DataConfig, train: np.ndarray, valid: np.ndarray, schema: Schema | None
) -> Dataset:
    is_anomaly, class_id = np.zeros(len(x), bool), np.zeros(len(x), np.int32)
    scaling = fit_scaling(cfg.scale, x, train, schema.features if schema else ())
    data = _dataset(x, is_anomaly, class_id, (train, valid, valid), scaling)
    digest = _digest(x, train, valid)
    return _through_input(data, cfg.input)._replace(digest=digest, schema=schema, is_labelled=False)


def _digest(*parts: Source) -> str:
    """Identifies rows, their classes and how they are split."""
    return hashlib.sha256(b"".join(map(sources.digest, parts))).hexdigest()


def _test_digests(
    pool: Source, test: Int[np.ndarray, " N"], cfg: DataConfig
) -> Callable[[], UInt64[np.ndarray, " M"]]:
    """The digests of test rows as in their source, so that they depend on no scale or input.

    Those of corrupted copies follow: each is made from the row's digest and what corrupted it.
    Rows that are not in memory are read when their digests are first asked for.
    """

    @cache
    def digests() -> np.ndarray:
        clean = sources.row_digests(pool, test)
        if not cfg.corruption:
            return clean
        recipe = f"{cfg.corruption} {cfg.scale} {cfg.split_seed}".encode()
        by = np.frombuffer(hashlib.sha256(recipe).digest()[:8], np.uint64)
        marked = np.stack([clean, np.repeat(by, len(clean))], axis=1)
        copies = sources.row_digests(marked, np.arange(len(clean)))
        return np.concatenate([clean, copies])

    if not sources.is_resident(pool):
        return digests
    found = digests()  # lets go of the rows
    return lambda: found


def _dataset(
    x: Source,
    y: np.ndarray,
    class_id: np.ndarray,
    ids: tuple[np.ndarray, np.ndarray, np.ndarray],
    scaling: Scaling,
) -> Dataset:
    """The rows of train, valid and test by their ids, scaled."""

    def split(rows: np.ndarray) -> Split:
        scaled_rows = sources.view(x, rows, partial(scaled, scaling=scaling))
        return Split(scaled_rows, y[rows], class_id[rows], rows.astype(np.int64))

    train, valid, test = map(split, ids)
    return Dataset(tuple(x.shape[1:]), train, valid, test, scaling, str(x.dtype))


def _through_input(data: Dataset, name: str) -> Dataset:
    """The data set with every row replaced by its feature map `data.input`."""
    if name == "none":
        return data
    shape = inputs.shape_of(name, data.shape)
    if not sources.within(sources.span(data.train.x), 0.0, 1.0):
        raise UserError(
            f"data.input {name!r} takes rows in [0, 1], but the training rows are not; use "
            "--data.scale minmax"
        )
    splits = {}
    for role in ("train", "valid", "test"):
        split: Split = getattr(data, role)
        x = sources.view(split.x, np.arange(len(split.x)), partial(inputs.mapped, name), shape)
        splits[role] = split._replace(x=x)
    return data._replace(**splits, shape=shape, raw_shape=data.shape)


def choose_classes(raw: Raw, cfg: DataConfig) -> tuple[list[int], list[int]]:
    """The normal classes, of which there is at least one, and the anomalous classes.

    `normal` = () means all classes except the anomalies, `anomaly` = () all classes except the
    normal ones. With a corruption no class is an anomaly. If neither is configured, the names or
    numbers of the classes must say which are normal: see `class_notes`.

    Raises:
      UserError: the data lack a class, no class is left for one of the two, or it is open which
        classes are normal.
    """
    present = _present(raw)
    normal, anomaly = (_numbers(cfg, side, raw) for side in ("normal", "anomaly"))
    if cfg.corruption and cfg.anomaly:
        raise UserError(
            f"data.corruption {cfg.corruption!r} makes the anomalies, so data.anomaly "
            f"({_listed(anomaly, raw)}) cannot name them too; unset one of the two"
        )
    if not normal and not anomaly and not cfg.corruption:
        normal = list(_implied(raw)[0])
    normal = normal or [k for k in present if k not in anomaly]
    anomaly = anomaly or [k for k in present if k not in normal]
    if not normal:
        raise UserError(
            f"data.anomaly names every class ({_listed(present, raw)}), so none is normal; leave "
            "one out"
        )
    if cfg.corruption:
        return normal, []
    if not anomaly:
        raise UserError(
            f"the test set has no anomalies because every class ({_listed(present, raw)}) is "
            "normal; set data.normal, data.anomaly or data.corruption"
        )
    return normal, anomaly


def class_notes(raw: Raw, cfg: DataConfig) -> tuple[str, ...]:
    """A line if the choice of the normal classes is a good guess that could be wrong."""
    is_open = raw.is_labelled and not (cfg.normal or cfg.anomaly or cfg.corruption)
    note = _implied(raw)[1] if is_open else ""
    return (note,) if note else ()


def _present(raw: Raw) -> list[int]:
    parts = [part for part in (raw.train_class_id, raw.test_class_id) if part is not None]
    return np.unique(np.concatenate(parts)).tolist()


def _numbers(cfg: DataConfig, side: str, raw: Raw) -> list[int]:
    """The classes that `data.normal` or `data.anomaly` names, all of which have rows."""
    names = getattr(cfg, side)
    if not names:
        return []
    present = _present(raw)
    numbers = [raw.schema.number(name) for name in names]
    absent = [name for name, k in zip(names, numbers, strict=True) if k not in present]
    if absent:
        raise UserError(
            f"data.{side} names the classes {', '.join(map(str, absent))}, but no rows are of "
            f"them; the rows are of {_listed(present, raw)}"
        )
    return [k for k in numbers if k is not None]


def _implied(raw: Raw) -> tuple[tuple[int, ...], str]:
    """The classes that are normal if none is configured, and a note if that could be wrong.

    They are, in this order: those that the data set or their names say; the only class of labelled
    training rows; class 0 of 0 and 1, unless most labelled training rows are of class 1; the class
    of most rows, of -1 and 1.

    Raises:
      UserError: it is open.
    """
    train, present = raw.train_class_id, _present(raw)
    trained = [] if train is None else np.unique(train).tolist()
    if raw.normal:
        note = "" if len(trained) == 1 else _by_elimination(raw)
        if note and train is not None and np.mean(np.isin(train, raw.normal)) < 0.5:
            raise _open(raw)
        return raw.normal, note
    if len(trained) == 1:
        return tuple(trained), ""
    if len(present) == 1 and not raw.schema.classes:  # of test rows: 1 is no normal
        return ({1: 0, -1: 1}.get(present[0], present[0]),), ""
    every = np.concatenate([part for part in (train, raw.test_class_id) if part is not None])
    if not raw.schema.classes and present == [0, 1]:
        if train is None or np.mean(train == 1) <= 0.5:
            return (0,), ""
        raise _open(raw, f"; most training rows ({np.mean(train == 1):.0%}) are of class 1")
    if not raw.schema.classes and present == [-1, 1]:
        share = float(np.mean(every == 1))
        most = 1 if share > 0.5 else -1
        if max(share, 1 - share) >= _MOST:
            note = f"{max(share, 1 - share):.1%} of the labelled rows are of class {most}, which is"
            return (most,), f"{note} taken as normal; if it is not, add --data.normal {-most}"
    raise _open(raw)


def _by_elimination(raw: Raw) -> str:
    """A note if a class is normal only because all others have names of anomalies."""
    if not raw.schema.classes or not is_eliminated(raw.schema.classes):
        return ""
    names = ", ".join(repr(raw.schema.known_as(k)) for k in raw.normal)
    return f"the class {names} is taken as normal because the other names are those of anomalies"


def _open(raw: Raw, more: str = "") -> UserError:
    """The error where nothing says which classes are normal, with the commands to choose from."""
    present = _present(raw)
    commands = [f"--data.normal {shlex.quote(raw.schema.known_as(k))}" for k in present]
    choice = f"either {commands[0]} or {commands[1]}"
    if len(commands) > 2:
        choice = f"the normal ones, as in {commands[0]}"
    return UserError(
        f"which of the classes {_listed(present, raw)} are normal is not known{more}; add {choice}"
    )


def _parts(n_train: int, n: int, cfg: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pool positions of the training and the test part."""
    rows = np.arange(n)
    if cfg.split == "official":
        return rows[:n_train], rows[n_train:]
    count = math.ceil(cfg.test_fraction * n)
    if not 1 <= count < n:
        raise UserError(f"data.test_fraction {cfg.test_fraction} of {n} rows leaves a part empty")
    # Equal to scikit-learn's train_test_split, without the second that importing it takes.
    drawn = np.random.RandomState(cfg.split_seed).permutation(rows)
    return drawn[count:], drawn[:count]


def _hold_out(
    rows: np.ndarray, group: np.ndarray | None, cfg: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Training and valid rows, both in their original order; groups stay together.

    A row of several groups, group [N, G], is left out if only some of them are held out.
    """
    groups = np.arange(len(rows))[:, None] if group is None else group.reshape(len(rows), -1)
    units = groups[(groups == groups[:, :1]).all(axis=1), 0]
    units = units if group is None else np.unique(units)
    count = max(1, round(cfg.valid_fraction * len(units)))
    drawn = draw(len(units), count, cfg.split_seed, SplitDraw.HOLD_OUT)
    is_held = np.isin(groups, units[drawn])
    is_train, is_valid = ~is_held.any(axis=1), is_held.all(axis=1)
    if np.sum(is_train) < FEWEST or not len(units):
        kind = "rows" if group is None else "groups of rows"
        raise UserError(
            f"data.valid_fraction {cfg.valid_fraction} of {len(units)} normal training {kind} "
            f"leaves fewer than {FEWEST} rows to train on; lower it or give more rows"
        )
    return rows[is_train], rows[is_valid]


def _balance(test: np.ndarray, is_normal: np.ndarray, cfg: DataConfig) -> np.ndarray:
    """The test rows with as many anomalies as normals, in their original order."""
    normals, anomalies = int(np.sum(is_normal)), int(np.sum(~is_normal))
    if anomalies < normals:
        raise UserError(
            f"data.balance needs as many test anomalies as normals, but there are {anomalies} "
            f"against {normals}; unset it or name more classes in data.anomaly"
        )
    keep = is_normal.copy()
    keep[~is_normal] = draw(anomalies, normals, cfg.split_seed, SplitDraw.BALANCE)
    return test[keep]


def draw(n: int, count: int, seed: int, address: SplitDraw) -> Bool[np.ndarray, " n"]:
    """Mask of `count` of n rows, drawn without replacement."""
    order = host_generator(seed, Purpose.SPLIT, address).permutation(n)
    mask = np.zeros(n, bool)
    mask[order[:count]] = True
    return mask


def _with_corrupted(test: Split, cfg: DataConfig) -> Split:
    """Normal test rows, followed by their corrupted copies as anomalies.

    Severities are in units of the scaled rows, which are the model's input.
    """
    from jaxae.data.corruptions import corrupt

    clean = sources.read(test.x)
    copies = np.asarray(corrupt(cfg.corruption, clean, cfg.split_seed), np.float32)
    return Split(
        np.concatenate([clean, copies]),
        np.concatenate([test.y, np.ones(len(copies), bool)]),
        np.concatenate([test.class_id, test.class_id]),
        np.concatenate([test.id, -(1 + test.id)]),
    )


def _require_classes(raw: Raw, cfg: DataConfig, side: str, class_id: np.ndarray, rows: str) -> None:
    named = _numbers(cfg, side, raw)
    present = np.unique(class_id).tolist() if named else []
    absent = [k for k in named if k not in present]
    if absent:
        raise UserError(
            f"data.{side} names the classes {_listed(absent, raw)}, but no {rows} are of them; "
            f"the {rows} are of {_listed(present, raw)}"
        )


def _listed(classes: Iterable[int], raw: Raw) -> str:
    return ", ".join(map(raw.schema.called, classes))
