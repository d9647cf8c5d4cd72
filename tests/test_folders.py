"""Folders of images as people keep them: layouts, links, orientation, depth, names."""

import contextlib
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxae import data
from jaxae.config import DataConfig
from jaxae.data.own import files, folders, images
from jaxae.data.own.schema import from_dict
from jaxae.devices import memory
from jaxae.errors import UserError

SIZE = (8, 6)  # height, width


def picture(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)


def save(path, values=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = picture(len(str(path))) if values is None else values
    Image.fromarray(values).save(path, **options)
    return path


def fill(root, layout):
    """Each folder with so many images, all of them different."""
    for i, (name, count) in enumerate(layout.items()):
        for k in range(count):
            save(root / name / f"{k}.png", picture(1000 * i + k))
    return root


def load(root, **settings):
    return data.raw(DataConfig(name=f"images:{root}", **settings))


def same(one, other):
    for a, b in zip(one[:4], other[:4], strict=True):
        np.testing.assert_array_equal(a, b)


CLASSES = {"good": 10, "hole": 4}
PARTS = {"train/good": 6, "test/good": 3, "test/hole": 2}


@pytest.mark.parametrize(
    "clutter",
    [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", ".hidden",
     "good/.ipynb_checkpoints", "good/@eaDir/0.png", "hole/__MACOSX/good", "@EADIR"],
)  # fmt: skip
def test_folders_of_systems_and_hidden_ones_do_not_count(clutter, tmp_path):
    clean, other = fill(tmp_path / "a", CLASSES), fill(tmp_path / "b", CLASSES)
    fill(other, {clutter: 3})
    save(other / "good/._0.png")
    same(load(clean), load(other))
    schema = load(clean).schema
    named = files.rows(other, schema).named
    assert named == files.rows(clean, schema).named
    assert len(named["source"]) == 14


def test_links_are_followed_once_and_broken_ones_are_said(tmp_path):
    clean, real = fill(tmp_path / "a", CLASSES), fill(tmp_path / "elsewhere", CLASSES)
    linked = tmp_path / "b"
    linked.mkdir()
    (linked / "good").symlink_to(real / "good")
    (linked / "hole").mkdir()
    for image in (real / "hole").iterdir():
        (linked / "hole" / image.name).symlink_to(image)
    (real / "good/back").symlink_to(linked)
    (linked / "hole/gone.png").symlink_to(tmp_path / "nothing.png")
    raw = load(linked)
    same(load(clean), raw)
    assert "1 links lead nowhere" in raw.notes[0]
    assert files.rows(linked, raw.schema).notes == raw.notes


@pytest.mark.parametrize("upper", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("training", "testing"), ("training_set", "test_set"),
     ("Train Images", "test-images"), ("train2017", "test2017"), ("trainset", "testset")],
)  # fmt: skip
def test_parts_are_known_in_any_case(upper, train, test, tmp_path):
    plain = fill(tmp_path / "a", PARTS)
    layout = {f"{upper(train)}/good": 6, f"{upper(test)}/good": 3, f"{upper(test)}/hole": 2}
    same(load(plain), load(fill(tmp_path / "b", layout)))


@pytest.mark.parametrize("name", ["val", "Valid", "validation"])
def test_validation_images_are_trained_on(name, tmp_path):
    raw = load(fill(tmp_path, PARTS | {f"{name}/good": 4}))
    assert raw.x_train.shape[0] == 10
    assert raw.test_class_id.tolist() == [0, 0, 0, 1, 1]
    assert any("4 images" in note and name in note for note in raw.notes)


def test_a_validation_part_with_a_further_class_is_the_test_part(tmp_path):
    raw = load(fill(tmp_path, {"train/good": 6, "val/good": 2, "val/hole": 3}))
    assert len(raw.x_train) == 6
    assert raw.test_class_id.tolist() == [0, 0, 1, 1, 1]
    assert any("no test folder" in note for note in raw.notes)


@pytest.mark.parametrize("masks", ["ground_truth", "Ground Truth", "masks", "mask", "gt"])
@pytest.mark.parametrize("parts", [PARTS, {"test/good": 10, "test/hole": 4}, CLASSES])
def test_masks_are_never_a_class(masks, parts, tmp_path):
    clean = load(fill(tmp_path / "a", parts))
    raw = load(fill(tmp_path / "b", parts | {f"{masks}/hole": 4}))
    same(clean, raw)
    assert raw.schema.classes == ("good", "hole")


def test_masks_beside_their_images_do_not_count(tmp_path):
    root = fill(tmp_path, CLASSES)
    clean = load(root)
    for name in ("good/0_mask.png", "hole/1_label.png", "hole/2_gt.tif"):
        save(root / name, np.zeros(SIZE, np.uint8))
    raw = load(root)
    same(clean, raw)
    assert "3 masks are not read as images" in raw.notes[0]
    save(root / "good/alone_mask.png")  # of no image
    assert len(load(root).x_train) + len(load(root).x_test) == 15


def test_mask_may_be_a_class(tmp_path):
    found = folders.scan(fill(tmp_path, {"mask": 3, "no_mask": 2}))
    assert found.classes == ["mask"] * 3 + ["no_mask"] * 2


def test_a_test_part_alone_is_split_by_class(tmp_path):
    layout = {f"test/{name}": count for name, count in CLASSES.items()}
    raw = load(fill(tmp_path / "b", layout))
    same(load(fill(tmp_path / "a/test", CLASSES)), raw)
    assert any("no training folder" in note for note in raw.notes)


@pytest.mark.parametrize(
    "layout", [{"": 6}, {"good": 6}, {"train/good": 6}, {"train": 6}, {"scans": 6},
               {"train/good": 4, "val/good": 2}, {"good/monday": 3, "good/tuesday": 3},
               {"train/good": 6, "test": 5}, {"train/good": 6, "test/good": 5}]
)  # fmt: skip
def test_images_of_one_class_have_no_labels(layout, tmp_path):
    raw = load(fill(tmp_path, layout))
    assert not raw.is_labelled
    assert len(raw.x_train) == 6
    assert "taken as normal" in raw.notes[-1]
    assert ("test" in " ".join(layout)) == any("judge it with jaxae score" in n for n in raw.notes)


def test_an_unpacked_archive_is_its_only_folder(tmp_path):
    same(load(fill(tmp_path / "a", PARTS)), load(fill(tmp_path / "b/casting/casting", PARTS)))
    same(load(fill(tmp_path / "c", CLASSES)), load(fill(tmp_path / "d/things", CLASSES)))


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ({"bottle/train/good": 2, "bottle/test/bad": 2, "nut/train/good": 2, "nut/test/bad": 2},
         "train and test inside of bottle, nut; name one"),
        ({"test/good": 3, "good": 3, "bad": 3}, "the part test beside bad, good"),
        ({"train/good": 3, "test.d": 0, "wood": 3}, "the part train beside wood"),
        ({"defect": 3}, "defect"),
        ({".hidden": 3}, "holds no images"),
    ],
)  # fmt: skip
def test_layouts_that_are_not_understood_are_one_line(layout, says, tmp_path):
    with pytest.raises(UserError, match=says) as caught:
        load(fill(tmp_path, layout))
    assert "\n" not in str(caught.value)


def test_a_test_part_without_normals_or_anomalies_is_completed(tmp_path):
    raw = load(fill(tmp_path / "a", {"train/good": 10, "test/hole": 3}))
    assert (np.sum(raw.train_class_id == 0), np.sum(raw.test_class_id == 0)) == (8, 2)
    assert any("no test row is normal" in note for note in raw.notes)
    raw = load(fill(tmp_path / "b", {"train/good": 8, "train/hole": 3, "test/good": 2}))
    assert raw.test_class_id.tolist().count(1) == 3
    assert any("no test row is an anomaly" in note for note in raw.notes)


@pytest.mark.parametrize("train", ["train/good", "train"])
def test_test_classes_that_training_lacks_are_asked_for(train, tmp_path):
    root = fill(tmp_path, {train: 10, "test/0": 4, "test/1": 3})
    with pytest.raises(UserError, match=r"--data\.normal good if .* --data\.normal good 0"):
        load(root)
    raw = load(root, normal=("good", "0"))
    assert raw.test_class_id.tolist() == [0] * 4 + [1] * 3
    assert len(load(root, normal=("good",)).x_train) == 8
    both = fill(tmp_path / "b", {"train/good": 10, "test/broken": 4, "test/scratch": 3})
    assert len(load(both).x_train) == 8  # of names that are known to be anomalies


def test_parts_may_be_wrapped_twice(tmp_path):
    twice = {f"{name.replace('/', '/' + name.split('/')[0] + '/')}": n for name, n in PARTS.items()}
    assert "train/train/good" in twice
    same(load(fill(tmp_path / "a", PARTS)), load(fill(tmp_path / "b", twice)))


def test_anomalies_among_the_training_images_are_counted(tmp_path):
    raw = load(fill(tmp_path, PARTS | {"train/hole": 5}))
    assert "5 of 7 anomalies are among the training rows" in raw.notes[-1]


def test_images_beside_the_classes_and_other_files_are_said(tmp_path):
    root = fill(tmp_path, CLASSES)
    save(root / "loose.png")
    (root / "good/photo.heic").write_bytes(b"x")
    (root / "readme.txt").write_text("x")
    notes = load(root).notes
    assert any("1 images beside the class folders" in note for note in notes)
    assert any(".heic (1)" in note and ".txt" not in note for note in notes)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_images_without_a_suffix_are_known_by_their_first_bytes(kind, tmp_path):
    save(tmp_path / "good/one", format=kind)
    (tmp_path / "good/notes").write_text("no image")
    save(tmp_path / "good/two.jfif", format="JPEG")
    assert [path.name for path in folders.scan(tmp_path).paths] == ["one", "two.jfif"]


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(
    st.sampled_from(["good/a", "good", "hole", "hole/x/y", ".cache", "__MACOSX/good", "@eaDir"]),
    st.integers(1, 2), min_size=1,
))  # fmt: skip
def test_every_image_that_a_user_sees_is_read_once(layout):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        root = fill(Path(name), layout)
        seen = {
            name: count
            for name, count in layout.items()
            if not name.startswith((".", "__MACOSX", "@eaDir"))
        }
        found = folders.files(root)[0]
        assert len(found) == len(set(found)) == sum(seen.values())
        if seen:
            assert sorted(folders.scan(root).paths) == found


def upright(size):
    """A picture that is dark above and bright to the right."""
    values = np.full(size, 120, np.uint8)
    values[: size[0] // 4] = 10
    values[:, -size[1] // 4 :] = 240
    return values


TURNS = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
         5: np.transpose, 6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).T,
         8: lambda x: np.rot90(x, -1)}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(("suffix", "size"), [("jpg", (24, 16)), ("png", (24, 16)),
                                              ("tif", (24, 16)), ("jpg", (480, 320))])  # fmt: skip
def test_images_are_read_as_viewers_show_them(orientation, suffix, size, tmp_path):
    shown = upright(size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"quality": 100} if suffix == "jpg" else {"compression": "tiff_lzw"}
    options = {"exif": exif} | (lossless if suffix != "png" else {})
    save(tmp_path / f"a/good/plain.{suffix}", shown)
    save(tmp_path / f"a/good/turned.{suffix}", np.ascontiguousarray(TURNS[orientation](shown)),
         **options)  # fmt: skip
    x = load(tmp_path / "a").x_train.astype(int)
    assert x.shape[1:3] == ((24, 16) if size == (24, 16) else (256, 171))
    assert np.abs(x[0] - x[1]).mean() < 3


def test_images_that_cannot_fit_in_memory_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch
):
    fill(tmp_path, {"good": 10, "hole": 4})
    monkeypatch.setattr(images, "decode", None)
    monkeypatch.setattr(memory, "of_machine", lambda: 14 * 8 * 6 * 5 - 1)
    with pytest.raises(UserError, match=r"14 images of 8 x 6 x 1 need .*; use --data.size 4, or"):
        load(tmp_path)


def test_a_turned_file_is_never_read_scrambled(tmp_path):
    """Pillow 13 swaps the sides of uncompressed TIFFs before it reads them."""
    shown, exif = upright((24, 16)), Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "turned.tif", np.ascontiguousarray(TURNS[6](shown)), exif=exif)
    with contextlib.suppress(UserError):
        np.testing.assert_array_equal(load(tmp_path).x_train[0, ..., 0], shown)


def test_the_turns_of_the_test_are_those_of_the_standard(tmp_path):
    """Orientation 6: the first row of the file is the right-hand side of what is shown."""
    shown = upright((24, 16))
    assert (TURNS[6](shown)[0] == shown[:, -1]).all()
    assert (TURNS[8](shown)[0] == shown[::-1, 0]).all()


@pytest.mark.parametrize(
    ("largest", "white"),
    [(200, 255), (900, 1023), (4000, 4095), (16000, 16383), (60000, 65535)],
)  # fmt: skip
def test_bits_that_are_not_used_cost_no_contrast(largest, white, tmp_path):
    deep = np.linspace(0, largest, 48).reshape(SIZE).astype(np.uint16)
    for i in range(4):
        save(tmp_path / f"good/{i}.png", deep // (i + 1))
    raw = load(tmp_path)
    assert raw.schema.white == white
    expected = np.round(deep / white * 255)
    np.testing.assert_array_equal(raw.x_train[0, ..., 0], expected)
    assert any(str(white) in note for note in raw.notes) == (white < 65535)
    brighter = save(tmp_path / "new.png", np.full(SIZE, 65535, np.uint16))
    x = files.rows(brighter, raw.schema).x
    assert (x == 255).all()


def test_old_schemas_take_16_bits_as_before():
    assert from_dict({"kind": "images", "mode": "L", "size": [8, 6]}).white == 65535


def test_depth_that_is_lost_is_said_and_no_grey_values_are_refused(tmp_path):
    import struct
    import zlib

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes(6 * 8) for _ in range(8))  # 8 x 8 pixels of 3 x 16 bits
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert any("upper 8" in note for note in load(tmp_path / "a").notes)
    for i, values in enumerate((picture(0).astype(np.float32), np.full(SIZE, -1, np.int32))):
        save(tmp_path / f"b{i}/x.tif", values)
        with pytest.raises(UserError, match=r"x\.tif.*outside 0 to"):
            load(tmp_path / f"b{i}")


def test_data_sets_side_by_side_are_no_classes(tmp_path):
    for product in ("left lamp", "right lamp"):
        for name in ("ok", "not ok"):
            (tmp_path / product / "data" / name).mkdir(parents=True)
            for i in range(5):
                Image.fromarray(np.full((9, 9), 9 * i, np.uint8)).save(
                    tmp_path / product / "data" / name / f"{i}.png"
                )
    with pytest.raises(UserError, match="inside of left lamp, right lamp; name one") as caught:
        folders.scan(tmp_path)
    named = shlex.split(str(caught.value).partition("--data.name ")[2])
    assert {*folders.scan(Path(*named)).classes} == {"ok", "not ok"}


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp"])
def test_images_that_are_not_read_are_said(suffix, tmp_path):
    pages = [Image.fromarray(np.full((9, 9), 40 * i, np.uint8)) for i in range(1, 4)]
    pages[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / f"b{suffix}")
    paths = [tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"]
    schema, notes = images.fit(paths, 0)
    assert any("1 files hold several images, of which the first is read" in n for n in notes)
    first, second = images.decode(paths, schema).astype(int)
    assert np.abs(first - second).max() <= 3


@pytest.mark.filterwarnings("error")
def test_palettes_with_transparency_are_read_without_warnings(tmp_path):
    palette = Image.fromarray(picture(0)).convert("P")
    palette.info["transparency"] = bytes(range(256))
    (tmp_path / "good").mkdir()
    palette.save(tmp_path / "good/p.png")
    np.testing.assert_array_equal(load(tmp_path).x_train[0, ..., 0], picture(0))


def test_names_that_are_no_text_are_escaped(tmp_path):
    root = fill(tmp_path, CLASSES)
    try:
        os.rename(os.fsencode(root / "hole"), os.fsencode(root) + b"/h\xf6le")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    raw = load(root)
    assert raw.schema.classes == ("good", r"h\xf6le")
    named = files.rows(root, raw.schema).named["source"]
    assert named[-1] == r"h\xf6le/3.png"
    "".join(named).encode("utf-8")


def test_the_only_class_of_the_training_part_is_normal(tmp_path):
    raw = load(fill(tmp_path, {"train/cork": 6, "test/cork": 3, "test/wood": 2}))
    assert raw.test_class_id.tolist() == [0, 0, 0, 1, 1]
    made = data.load(DataConfig(name=str(tmp_path)))
    assert made.test.y.tolist() == [False, False, False, True, True]
