"""Files as people keep them, drawn at random, each with what it truly holds."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

KNOWN_NORMAL = ["normal", "ok", "OK ", "good", "Normal", "benign", "healthy", "normal."]
KNOWN_ANOMALY = ["fail", "fraud", "attack", "defect", "broken", "anomaly", "fault", "nok"]
OTHERS = ["Ameise", "zebra", "Backdoor", "back", "neptune", "Störung", "kratzer", "line 3", "A"]
WORDS = [
    *("width", "height [mm]", "load, 100", 'a "quoted" name', "Größe", "T1", "v.2", "flow-rate"),
    *("f(x)", "100% load", "nan", "2019", "1_1", "Inf", "kind of", "Temp °C", "r&d", "<u>"),
]
PLAIN = ["width", "Größe", "T1"]  # of a single column
LABELS = ["label", "class", "target", "anomaly", "is_anomaly", "outlier", "Label", "CLASS"]
MARKS = ["", "NA", "?", "NaN", "nan", "null", "N/A"]
Options = dict[str, list[str]]  # of `jaxae train`, with their values


class Input(NamedTuple):
    """A file or folder with what a user would say of it, and what it truly holds."""

    path: Path
    options: Options
    truth: Any
    drawn: dict[str, Any]  # what was drawn, for a failure's message


class Table(NamedTuple):
    """What a table holds."""

    columns: dict[str, np.ndarray]  # in the file's order: float64 [N], NaN = missing, or texts
    key: str  # the column whose values are unique: identifies rows
    label: str  # "" = unlabelled
    normal: np.ndarray  # [N], of the label
    spare: frozenset[str]  # columns that must not be features
    may_refuse: bool  # whether a refusal without an option that helps is fair
    has_names: bool = True  # in its first line
    must_refuse: bool = False  # whether it is damaged

    def features(self, options: Options) -> dict[str, np.ndarray]:
        """The features that are read with these options: [N] each, NaN = missing."""
        left_out = {self.label, *self.spare, *options.get("--data.ignore", [])}
        features = {}
        for name, values in self.columns.items():
            if name in left_out:
                continue
            if values.dtype == object:
                for value in sorted(set(values)):
                    features[f"{name}={value}"] = (values == value).astype(float)
            else:
                features[name] = values
        return features

    def agrees(self, name: str, values: list[str], options: Options) -> bool:
        """Whether one who knows the table would add this option."""
        others = {c: v for c, v in self.columns.items() if c not in (self.label, self.key)}
        texts = {c for c, v in others.items() if v.dtype == object}
        lacking = {c for c, v in others.items() if v.dtype == float and np.isnan(v).any()}
        if name in ("--data.normal", "--data.anomaly"):
            if not self.label or {"--data.normal", "--data.anomaly"} & options.keys():
                return False
            y = self.columns[self.label][self.normal == (name == "--data.normal")]
            return sorted(values) == sorted(map(str, set(y.tolist())))
        if name == "--data.missing":
            return bool(lacking) and name not in options and values in (["median"], ["drop"])
        return {
            "--data.header": values == ["yes" if self.has_names else "no"] and name not in options,
            "--data.label": values == [self.label or "none"] and name not in options,
            "--data.ignore": bool(values) and set(values) <= texts | lacking | self.spare,
            "--data.one-hot": bool(texts) and not values and name not in options,
        }.get(name, False)


class Pick:
    """Random choices that are remembered by name."""

    def __init__(self, seed: int):
        self.rng, self.drawn = np.random.default_rng(seed), {"seed": seed}

    def __call__(self, name: str, options, p=None) -> Any:
        choice = options[int(self.rng.choice(len(options), p=p))]
        self.drawn[name] = choice
        return choice

    def odds(self, name: str, share: float) -> bool:
        return self(name, [True, False], [share, 1 - share])


def _features(pick: Pick, n: int, is_anomaly: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of numbers, the first of them with unique values."""
    rng, count = pick.rng, int(pick("features", [1, 2, 3, 4, 6]))
    kind = pick("names", ["words", "integers", "wavelengths", "xyz"], [0.7, 0.1, 0.1, 0.1])
    kind = "words" if count < 3 else kind  # one number above numbers is no name to anyone
    names = {
        "words": list(rng.permutation(WORDS if count > 1 else PLAIN)),
        "integers": [str(i) for i in range(6)],
        "wavelengths": [f"{400.5 + i}" for i in range(6)],
        "xyz": ["x", "y", "z", "u", "v", "w"],
    }[kind][:count]
    columns = {}
    for i, name in enumerate(names):
        x = rng.normal(0, 1, n) + 4 * is_anomaly
        if i == 0:
            x = (rng.permutation(n) + 1.0) / n
        how = pick(f"column {i}", ["float", "unit", "offset", "integer", "constant", "flag"])
        if how == "unit":
            x = x * 10.0 ** rng.integers(-13, 9)
        elif how == "offset" and i:
            x = x * 0.02 + rng.choice([1e3, 101325.0, 1e7, 1.7e9])
        elif how == "integer":
            x = np.round(x * (n if i == 0 else 10))
        elif how == "constant" and i:
            x = np.full(n, 3.25)
        elif how == "flag" and i and kind != "xyz":  # a flag called y may well be a label
            x = (x > 0).astype(float)
        columns[name] = x
    return columns


def _classes(pick: Pick, is_anomaly: np.ndarray) -> np.ndarray:
    """The label of each row, as texts or numbers."""
    rng, n = pick.rng, len(is_anomaly)
    how = pick(
        "classes",
        ["known", "known normal", "known anomaly", "unknown", "many", "01", "-11", "12", "flags"],
    )
    some = rng.permutation(OTHERS).tolist()
    numbers = {"01": (0, 1), "12": (1, 2), "-11": pick("signs", [(-1, 1), (1, -1)])}.get(how)
    if numbers:
        y = np.where(is_anomaly, numbers[1], numbers[0])
        return y.astype(str).astype(object) if pick.odds("texts of numbers", 0.3) else y
    if how == "flags":
        return is_anomaly.copy()
    normal = some[0] if how in ("known anomaly", "unknown") else pick("normal", KNOWN_NORMAL)
    anomaly = some[1] if how in ("known normal", "unknown") else pick("anomaly", KNOWN_ANOMALY)
    strange = np.full(n, anomaly, object)
    if how == "many":
        strange = np.array(some[2:5], object)[rng.integers(0, 3, n)]
    return np.where(is_anomaly, strange, normal).astype(object)


def table(folder: Path, seed: int) -> Input:
    """A table in a CSV or Parquet file."""
    pick = Pick(seed)
    rng, n = pick.rng, int(pick("rows", [40, 80, 120]))
    is_anomaly = np.zeros(n, bool)
    is_anomaly[rng.choice(n, n // 8, replace=False)] = True
    columns = _features(pick, n, is_anomaly)
    key, label, spare, options = next(iter(columns)), "", set(), {}
    if pick.odds("labelled", 0.7):
        label = pick("label", ["outcome", *LABELS])
        options = {"--data.label": [label]} if label == "outcome" else {}
        columns[label] = _classes(pick, is_anomaly)
        second = {"label": "is_anomaly", "anomaly": "changepoint"}.get(label)
        if second and pick.odds("second label", 0.3):
            columns[second] = is_anomaly.astype(float)
            spare.add(second)
    if len(columns) > 2 and pick.odds("missing", 0.15):
        name = pick("missing in", [c for c in columns if c not in (key, label, *spare)] or [""])
        if name:
            columns[name][rng.choice(n, 3, replace=False)] = np.nan
    if pick.odds("text column", 0.1):
        columns["colour"] = np.array(["red", "green", "blue"], object)[rng.integers(0, 3, n)]
    if pick.odds("empty column", 0.07):
        columns["remarks"] = np.full(n, np.nan)
        spare.add("remarks")
    if pick.odds("date column", 0.05):
        days = np.datetime64("2024-02-20") + np.arange(n)
        columns["day"] = days.astype(str).astype(object)
    if pick.odds("label first", 0.2):
        columns = {name: columns[name] for name in sorted(columns, key=lambda c: c != label)}
    suffixes = [".csv", ".parquet", ".csv.gz", ".tsv", ".txt"]
    suffix = pick("suffix", suffixes, [0.6, 0.2, 0.08, 0.06, 0.06])
    if pick.odds("index column", 0.12):
        name = "__index_level_0__" if suffix == ".parquet" else ""
        columns = {name: np.arange(n)} | columns
        spare.add(name)
    path = folder / (pick("file", ["t", "my table", "Größe'n", "a,b [1]"]) + suffix)
    truth = Table(columns, key, label, ~is_anomaly, frozenset(spare), may_refuse=False)
    if suffix == ".parquet":
        write_parquet(path, columns)
    else:
        truth, options = _write_csv(pick, path, truth, options)
    return Input(path, options, truth, pick.drawn)


def write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    """A table with null for what is missing."""
    arrays = {
        name: pa.array([None if _absent(value) else value for value in values.tolist()])
        for name, values in columns.items()
    }
    parquet.write_table(pa.table(arrays), path)


def _absent(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)


def _cell(value: Any, form: str, comma: bool, mark: str) -> str:
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return mark
    if value == round(value) and abs(value) < 1e9:
        return str(int(value))
    text = repr(value) if form == "repr" else form % value
    return text.replace(".", ",") if comma else text


def _without_names(truth: Table) -> tuple[Table, Options]:
    """The table as it is without its first line; nothing tells spare columns from features then."""
    new = {name: f"column{i}" for i, name in enumerate(truth.columns)}
    columns = {new[name]: values for name, values in truth.columns.items()}
    label, spare = (
        new[truth.label] if truth.label else "",
        frozenset(new[name] for name in truth.spare),
    )
    options = {"--data.label": [label]} if label else {}
    options |= {"--data.ignore": sorted(spare)} if spare else {}
    truth = Table(columns, new[truth.key], label, truth.normal, spare, False, has_names=False)
    return truth, options


def _write_csv(pick: Pick, path: Path, truth: Table, options: Options) -> tuple[Table, Options]:
    """Write it in some habit; returns what it then holds."""
    by_suffix = {".tsv": ["\t"], ".txt": [",", "\t", ";", " "]}
    separator = pick("separator", by_suffix.get(path.suffix, [",", ",", ",", ";", ";", "\t", "|"]))
    comma = separator in ";\t" and pick.odds("decimal comma", 0.3)
    form, mark = pick("form", ["repr", "%.9g", "%.9e"]), pick("mark", MARKS)
    quoting = pick("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    has_names = pick.odds("has names", 0.88)
    if not has_names:
        truth, options = _without_names(truth)
    end, text = pick("line end", ["\n", "\r\n"]), io.StringIO()
    before = pick("before", ["", "sep", "comment"], [0.9, 0.05, 0.05])
    text.write({"": "", "sep": f"sep={separator}{end}", "comment": f"# by a machine{end}"}[before])
    out = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    blanks = separator in ",;" and pick.odds("blanks around names", 0.08)
    if has_names:
        out.writerow([f" {name}" if blanks and i else name for i, name in enumerate(truth.columns)])
    blank_lines = len(truth.columns) > 1 and pick.odds("blank lines", 0.1)
    damages = ["", "units", "names again", "short row"]
    damage = pick("damage", damages, [0.94, 0.02, 0.02, 0.02]) if len(truth.columns) > 1 else ""
    for i, row in enumerate(zip(*(v.tolist() for v in truth.columns.values()), strict=True)):
        if i == {"units": 0, "names again": 30, "short row": 20}.get(damage):
            line = {"units": ["mm"] * len(row), "short row": ["1"]}.get(damage, truth.columns)
            out.writerow(line)
        out.writerow([_cell(value, form, comma, mark) for value in row])
        text.write(end if blank_lines and i % 17 == 3 else "")
    encoding = pick("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"], [0.7, 0.1, 0.12, 0.08])
    content = text.getvalue().encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    odd = comma or before or encoding in ("latin-1", "utf-16") or separator in " |"
    odd = odd or damage
    return truth._replace(may_refuse=bool(odd), must_refuse=bool(damage)), options


class Arrays(NamedTuple):
    """What a file of arrays holds."""

    train: np.ndarray
    is_normal: np.ndarray | None  # of the training rows; None = no row has a label
    test: np.ndarray | None  # None = not defined by the file
    test_is_normal: np.ndarray | None
    may_refuse: bool

    def agrees(self, name: str, values: list[str], options: Options) -> bool:
        """An option may not be needed."""
        return False


def arrays(folder: Path, seed: int) -> Input:
    """An .npz, a .npy or a folder of .npy files."""
    pick = Pick(seed)
    rng, n = pick.rng, int(pick("rows", [40, 90]))
    shape = pick("shape", [(3,), (1,), (8,), (8, 8), (8, 8, 1), (6, 2), (5, 7, 3)])
    x = rng.integers(0, 200, (n, *shape)).astype(float)
    x.reshape(n, -1)[:, 0] = rng.permutation(n)  # identifies rows
    x = x.astype(pick("dtype", ["uint8", "int64", "float16", "float32", "float64", ">f4", ">i2"]))
    is_anomaly = np.arange(n) >= n - n // 6
    y = _array_classes(pick, is_anomaly)
    form = pick("form", ["x_train", "X", "X, y", "npy", "test", "test and y_train", "folder"])
    cut = n // 2
    stored: dict[str, np.ndarray]
    if form in ("x_train", "X", "npy"):
        stored, truth = {form: x}, Arrays(x, None, None, None, False)
    elif form == "X, y":
        stored, truth = {"X": x, "y": y}, Arrays(x, ~is_anomaly, None, None, False)
    else:
        stored = {"x_train": x[:cut], "x_test": x[cut:], "y_test": y[cut:]}
        truth = Arrays(x[:cut], ~is_anomaly[:cut], x[cut:], ~is_anomaly[cut:], False)
        stored |= {"y_train": y[:cut]} if form == "test and y_train" else {}
    if form != "npy" and pick.odds("other arrays", 0.1):
        stored["about"] = np.array([1.0, 2.0])
    path = folder / {"npy": "rows.npy", "folder": "rows"}.get(form, "rows.npz")
    if form == "npy":
        np.save(path, x)
    elif form == "folder":
        path.mkdir()
        for name, values in stored.items():
            np.save(path / f"{name}.npy", values)
    else:
        pick("save", [np.savez, np.savez_compressed])(path, **stored)
    odd = y.dtype == object or y.ndim == 2
    return Input(path, {}, truth._replace(may_refuse=odd), pick.drawn)


def _array_classes(pick: Pick, is_anomaly: np.ndarray) -> np.ndarray:
    how = pick("y", ["int", "float", "bool", "signs", "texts", "objects", "column", "uint8"])
    words = np.where(is_anomaly, "fail", "ok")
    return {
        "signs": np.where(is_anomaly, -1, 1),
        "texts": words,
        "objects": words.astype(object),
        "column": is_anomaly[:, None].astype(int),
    }.get(how, is_anomaly.astype(how if how in ("int", "float", "bool", "uint8") else int))


class Images(NamedTuple):
    """What a folder of images holds: its images by their grey value."""

    train: dict[int, bool]  # grey value -> whether it is normal
    test: dict[int, bool] | None  # None = not defined by the folder
    is_labelled: bool
    size: tuple[int, int]
    tolerance: int
    classes: tuple[str, str]  # of good and of bad images
    may_refuse: bool

    def agrees(self, name: str, values: list[str], options: Options) -> bool:
        """The names of its classes may be asked for."""
        known = {"--data.normal": [self.classes[0]], "--data.anomaly": [self.classes[1]]}
        return self.is_labelled and not known.keys() & options.keys() and values == known.get(name)


_FORMATS = [".png", ".png", ".jpg", ".JPG", ".bmp", ".tif", ".webp", ".jfif", ".pgm"]
_LAYOUTS = {  # of classes: folders of good images, of bad ones
    "flat": ("", None),
    "one class": ("good", None),
    "classes": ("{good}", "{bad}"),
    "train, test": ("train/{good}", "test/{bad}"),
    "training, testing": ("training/{good}", "testing/{bad}"),
    "train alone": ("train/good", None),
    "mvtec without train": ("test/good", "test/{bad}"),
    "train, val, test": ("train/{good}", "test/{bad}"),
    "nested": ("{good}/2023", "{bad}/2023"),
}


def images(folder: Path, seed: int) -> Input:
    """A folder of images, each of one grey value with a white mark in its upper left corner."""
    pick = Pick(seed)
    root = folder / pick("file", ["img", "my images", "Bilder ä'"])
    good = pick("good", ["good", "ok_front", "normal", "no_defect", "OK", "2"])
    bad = pick("bad", ["scratch", "def_front", "broken", "1", "NOK", "a"])
    layout = pick("layout", list(_LAYOUTS))
    side, mode = (
        pick("side", [8, 16, 40]),
        pick("mode", ["L", "RGB", "RGBA", "P", "I;16", "F", "LA"]),
    )
    suffix = pick("suffix", {"I;16": [".png", ".tif"], "F": [".tif"]}.get(mode, _FORMATS))
    if suffix.lower() in (".jpg", ".jfif", ".bmp", ".pgm", ".webp") and mode != "L":
        mode = "RGB" if suffix != ".pgm" else "L"
    pick.drawn["mode"] = mode
    greys = [int(g) for g in 8 + 6 * pick.rng.permutation(30)]
    normal, strange = greys[:18], greys[18:24]
    where = [part and part.format(good=good, bad=bad) for part in _LAYOUTS[layout]]
    exif = suffix.lower() in (".jpg", ".jfif") and pick.odds("exif", 0.5)
    splits = "train" in layout and where[1] is not None and layout != "mvtec without train"
    test_good = greys[12:18] if splits else []
    for grey in normal:
        place = where[1].rpartition("/")[0] + f"/{good}" if grey in test_good else where[0]
        _write_image(root / place / f"{grey}{suffix}", grey, side, mode, exif)
    for grey in strange if where[1] else []:
        _write_image(root / where[1] / f"{grey}{suffix}", grey, side, mode, exif)
    if layout == "train, val, test":
        for grey in normal[9:12]:
            place = root / pick("val", ["val", "validation", "valid"]) / good
            place.mkdir(parents=True, exist_ok=True)
            (root / where[0] / f"{grey}{suffix}").rename(place / f"{grey}{suffix}")
    if where[0] and pick.odds("links", 0.1):
        inside = root / where[0]
        inside.rename(folder / "elsewhere")
        inside.symlink_to(folder / "elsewhere", target_is_directory=True)
    if layout == "mvtec without train":
        _write_image(root / "ground_truth" / bad / f"0{suffix}", 255, side, "L", False)
    _clutter(pick, root, root / where[0], side)
    test = dict.fromkeys(test_good, True) | dict.fromkeys(strange, False) if splits else None
    train = dict.fromkeys([grey for grey in normal if grey not in test_good], True)
    train |= dict.fromkeys(strange, False) if where[1] and not splits else {}
    tolerance = 4 if suffix.lower() in (".jpg", ".jfif", ".webp") else 1
    truth = Images(
        *(train, test, bool(where[1]), (side, side), tolerance, (good, bad)),
        may_refuse=False,
    )
    return Input(root, {}, truth, pick.drawn)


def _write_image(path: Path, grey: int, side: int, mode: str, exif: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.full((side, side), grey, np.uint8)
    x[: side // 4, : side // 4] = 255
    if mode in ("I;16", "F"):
        deep = x.astype(np.uint16) * 257 if mode == "I;16" else x.astype(np.float32) / 255
        Image.fromarray(deep).save(path)
        return
    image = Image.fromarray(x).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    kind = "JPEG" if path.suffix == ".jfif" else None
    more = {"quality": 95} if path.suffix.lower() in (".jpg", ".jfif") else {}
    more = {"lossless": True} if path.suffix == ".webp" else more
    if exif:  # stored turned by a quarter, with the note to turn it back
        tags = Image.Exif()
        tags[0x0112] = 6
        image, more = image.rotate(90), more | {"exif": tags}
    image.save(path, kind, **more)


def _clutter(pick: Pick, root: Path, inside: Path, side: int) -> None:
    """What programs leave in folders."""
    what = pick("clutter", ["", "", ".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden", "files"])
    if what == "files":
        for name in ("Thumbs.db", ".DS_Store", "notes.txt"):
            (root / name).write_bytes(b"\0")
        (root / "gone.png").symlink_to(root / "nowhere.png")
    elif what:
        for place in (root, inside):
            _write_image(place / what / "250.png", 250, side, "L", False)


class Series(NamedTuple):
    """What a long series holds; its first channel says the group and the step."""

    lengths: list[int]  # of each group
    strange: set[int]  # values of the first channel in steps that are anomalies
    is_labelled: bool
    channels: list[str]
    window: int
    may_refuse: bool
    gap: int  # steps that are missing
    says: str  # words that are said where neighbours in a window are no neighbours in time

    def agrees(self, name: str, values: list[str], options: Options) -> bool:
        """More steps may have to be tested."""
        return name == "--data.test-fraction" and len(values) == 1 and name not in options


STEP = 1000.0  # a step of group g has the value STEP * g + its number


def series(folder: Path, seed: int) -> Input:
    """A series in a CSV or Parquet file, perhaps of several groups and with a time column."""
    pick = Pick(seed)
    rng, groups = pick.rng, pick("groups", [1, 1, 3, 6])
    length = pick("length", [240, 400])
    window = pick("window", [8, 16])
    step = np.concatenate([STEP * g + np.arange(length) for g in range(groups)])
    machine = np.repeat([f"m{g}" for g in range(groups)], length).astype(object)
    second = rng.normal(0, 1, len(step))
    late = length - 20  # of the only group: the last steps are tested
    is_anomaly = (step % STEP >= late) & (step % STEP < late + 5)
    seconds = step % STEP * 60
    order = np.arange(len(step))
    if groups > 1 and pick.odds("take turns", 0.4):
        order = np.argsort(step % STEP, kind="stable")
    trouble = pick("trouble", ["", "", "", "gap", "shuffled", "backwards", "repeats"])
    columns, options = dict[str, np.ndarray](), {"--data.window": [str(window)]}
    time = pick("time", ["", "timestamp", "epoch", "datetime"])
    if time == "datetime":
        start = np.datetime64("2024-03-01T00:00:00")
        columns["datetime"] = (start + seconds.astype("timedelta64[s]")).astype(str).astype(object)
    elif time:
        columns["timestamp"] = (seconds + (1_700_000_000 if time == "epoch" else 0)).astype(int)
    if groups > 1:
        columns["machine"] = machine
        options["--data.group"] = ["machine"]
    columns |= {"value": step, "load": second}
    is_labelled = pick.odds("labelled", 0.6)
    if is_labelled:
        columns["label"] = is_anomaly.astype(int)
    if time and trouble:
        gone = (step % STEP >= 90) & (step % STEP < 97)
        order = {
            "gap": order[~gone[order]],
            "shuffled": rng.permutation(order),
            "backwards": order[::-1],
            "repeats": np.concatenate([order, order[-3:]]),
        }[trouble]
    columns = {name: values[order] for name, values in columns.items()}
    suffix = pick("suffix", [".csv", ".parquet"])
    path = folder / f"series{suffix}"
    if suffix == ".parquet":
        write_parquet(path, columns)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(columns)
            out.writerows(zip(*(v.tolist() for v in columns.values()), strict=True))
    strange = set(step[is_anomaly].astype(int).tolist())
    truth = Series(
        *([length] * groups, strange, is_labelled, ["value", "load"], window),
        may_refuse=bool(time) and trouble in ("shuffled", "backwards", "repeats"),
        gap=7 * groups if time and trouble == "gap" else 0,
        says={"gap": "uneven", "repeats": "same as in the step before"}.get(trouble, ""),
    )
    return Input(path, options, truth, pick.drawn)
