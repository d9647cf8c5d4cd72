"""Masks of images: found in every layout, beside their own image, and refused if wrong."""

import re

import numpy as np
import pytest
from PIL import Image

from jaxae import data
from jaxae.config import DataConfig
from jaxae.data.own import images, labelled, masks
from jaxae.errors import UserError

SIZE = (12, 10)
# Where good and defect images for training and test, and masks, lie in each layout.
LAYOUTS = {
    "mvtec": ("train/good", "test/good", "test/{}", "ground_truth/{}", "{}_mask.png"),
    "visa": ("Data/Images/Normal",) * 2 + ("Data/Images/Anomaly", "Data/Masks/Anomaly", "{}.png"),
    "visa, one class": ("train/good", "test/good", "test/bad", "ground_truth/bad", "{}.png"),
    "classes": ("good", "good", "{}", "masks/{}", "{}.bmp"),
    "beside": ("train/ok", "test/ok", "test/{}", "test/{}", "{}_label.png"),
    "flat": ("good", "good", "{}", "gt", "{}-{}_gt.tif"),
}


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def make(root, layout, defects=("hole", "crack"), count=4):
    """Images that are white exactly where they are anomalous; the masks say so."""
    train, good, bad, masks_in, name = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    for folder in (train, good):
        for i in range(10):
            number = i if folder == train else 10 + i
            save(root / folder / f"{number:03}.png", rng.integers(0, 200, SIZE).astype(np.uint8))
    for k, kind in enumerate(defects):
        for i in range(count):
            stem = f"{kind}-{i}" if "{}-{}" in name else f"{i + k * count * ('visa' in layout):03}"
            x, mask = rng.integers(0, 200, SIZE).astype(np.uint8), rng.uniform(size=SIZE) < 0.2
            save(root / bad.format(kind) / f"{stem}.png", np.where(mask, 255, x).astype(np.uint8))
            of_mask = name.replace("{}-{}", "{}").format(stem)
            save(root / masks_in.format(kind) / of_mask, mask.astype(np.uint8) * 255)
    return root


def load(root, **settings):
    return data.raw(DataConfig(name=f"images:{root}", **settings))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_found_in_every_layout_and_stay_with_their_image(layout, tmp_path):
    raw = load(make(tmp_path / "set", layout))
    assert raw.x_test.shape[1:] == (*SIZE, 1)
    np.testing.assert_array_equal(raw.test_place_y, raw.x_test[..., 0] == 255, strict=True)
    assert raw.test_place_y.any(axis=(1, 2)).sum() == 8
    said = [note for note in raw.notes if "mask" in note and "not read as" not in note]
    share = raw.test_place_y[raw.test_place_y.any(axis=(1, 2))].mean()
    assert said == [f"masks mark {share:.2%} of the pixels of 8 anomalous test images"]
    read = labelled.read(tmp_path / "set", raw.schema, DataConfig())  # training images too
    np.testing.assert_array_equal(read.place_y, read.rows.x[..., 0] == 255, strict=True)


def test_a_class_that_the_user_calls_normal_has_no_anomalous_place(tmp_path):
    root = make(tmp_path, "classes")
    made = data.load(DataConfig(name=f"images:{root}", anomaly=("hole",)))
    assert (made.test.y == made.test_place_y.any(axis=(1, 2))).all()
    assert made.test.y.sum() == 4


HOLE = "ground_truth/hole/000_mask.png"


def remove(root):
    (root / HOLE).unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove, "1 of 8 anomalous test images have no mask, first .*add masks such as "
         "ground_truth/hole/000_mask.png"),
        (lambda root: save(root / "ground_truth/hole/9.png", np.zeros(SIZE, np.uint8)),
         "1 of 9 masks belong to no test image: .*hole/9.png"),
        (lambda root: save(root / HOLE, np.zeros(SIZE, np.uint8)), "1 masks of .* are black"),
        (lambda root: save(root / HOLE, np.full(SIZE, 200, np.uint8)), "1 masks have shades"),
    ],
)  # fmt: skip
def test_what_is_odd_about_masks_is_said(change, says, tmp_path):
    root = make(tmp_path, "mvtec")
    change(root)
    raw = load(root)
    assert re.search(says, " ".join(raw.notes))
    assert (raw.test_place_y is None) == ("no mask" in says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: save(root / HOLE, np.zeros((12, 20), np.uint8)),
         "000_mask.png has 12 x 20, but its image .*hole/000.png 12 x 10; replace it"),
        (lambda root: save(root / "ground_truth/hole/000.png", np.zeros(SIZE, np.uint8)),
         "are masks of .*hole/000.png; remove one of them"),
        (lambda root: save(root / "ground_truth/good/010_mask.png", np.full(SIZE, 255, np.uint8)),
         "010.png is normal by its folder, but its mask .* marks 120 pixels; move"),
        (lambda root: save(root / "ground_truth/000.png", np.zeros(SIZE, np.uint8)),
         "fits .*; put it into a folder of its class"),
        (lambda root: (root / HOLE).write_bytes(b"no image"), "000_mask.png is not a readable"),
    ],
)  # fmt: skip
def test_masks_that_would_give_a_wrong_truth_are_refused(change, says, tmp_path):
    root = make(tmp_path, "mvtec")
    change(root)
    with pytest.raises(UserError, match=says) as refusal:
        load(root)
    assert "\n" not in str(refusal.value)


MARKS = np.arange(120).reshape(SIZE) % 7 == 0
NUMBERS = (1 + np.arange(120).reshape(SIZE) % 3).astype(np.uint8)  # of classes
WHITE = np.full((*SIZE, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("mode", "of_marks"),
    [
        ("1", Image.fromarray),
        ("L", lambda m: Image.fromarray(255 * m.astype(np.uint8))),
        ("numbers", lambda m: Image.fromarray(m * NUMBERS)),
        ("RGB", lambda m: Image.fromarray(m[..., None] * np.array([255, 0, 0], np.uint8))),
        ("RGBA", lambda m: Image.fromarray(np.dstack([WHITE, m * np.uint8(255)]))),
        ("I;16", lambda m: Image.fromarray(m.astype(np.uint16) * 65535)),
        ("P", lambda m: Image.fromarray(m.astype(np.uint8)).convert("P")),
        ("smooth", lambda m: Image.fromarray(np.where(m, 180, 90).astype(np.uint8))),
    ],
)  # fmt: skip
def test_masks_of_any_mode_mark_the_same(mode, of_marks, tmp_path):
    suffix = "tif" if mode == "I;16" else "png"
    of_marks(MARKS).save(tmp_path / f"m.{suffix}")
    found, is_shaded = images.marked(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(found, MARKS)
    assert is_shaded == (mode == "smooth")


@pytest.mark.parametrize(("factor", "line"), [(2, 1), (4, 1), (8, 1), (4, 3)])
def test_thin_lines_stay_whole_when_masks_shrink(factor, line):
    marks = np.zeros((64, 64), bool)
    marks[:, 13 : 13 + line] = True
    small = masks._resized(marks, (64 // factor, 64 // factor))
    assert small.any(axis=1).all()
    assert small.sum(axis=1).max() <= -(-line // factor) + (line > 1)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(30, 20)] * 3, (30, 20)),
        ([(256, 256)] * 3, (256, 256)),
        ([(1024, 1024)] * 2, (256, 256)),
        ([(768, 1024)] * 2, (192, 256)),
        ([(30, 20), (20, 30)], (64, 64)),
        ([(100, 90), (100, 80)], (128, 128)),
        ([(300, 280), (100, 80), (500, 80)], (256, 256)),
    ],
)
def test_images_keep_their_size_up_to_256_pixels(sizes, expected):
    assert images._size(sizes) == expected
