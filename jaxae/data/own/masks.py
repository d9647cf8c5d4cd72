"""Masks of a folder of images: which image each belongs to, and the places that it marks."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxae.data.own import folders, images
from jaxae.errors import UserError

_MOST = 0.5  # a share of marked pixels beyond which masks may be upside down: black on white


class Found(NamedTuple):
    """The truth of the places of some images, and what a user should know about it."""

    place_y: Bool[np.ndarray, " N *P"] | None  # None = not known
    notes: tuple[str, ...] = ()


def read(
    folder: Path,
    paths: list[Path],
    is_normal: Bool[np.ndarray, " N"],
    size: tuple[int, ...],
    is_chosen: bool,
) -> Found:
    """The truth of each pixel of images, from the masks that lie below the same folder.

    A mask belongs to the image of the same folder and name; folders of masks, of parts and those
    such as `Data` or `images` do not count, nor does `_mask`, `_label` or `_gt` at the end of its
    name, nor its suffix. A mask in no folder belongs to the only image of its name. Normal images
    need no mask. See `images.marked` for what is marked, `_resized` for how sizes change.

    Args:
      folder: the folder of the data set.
      paths: images to be tested.
      is_normal: which of them are normal.
      size: height and width to which images are resized.
      is_chosen: whether the user says which classes are normal; then a mask of an image of such a
        class counts for nothing. Else it must be black.

    Returns:
      None as truth if there are no masks, or if an anomalous image has none.

    Raises:
      UserError: a mask is unreadable, belongs to several images, has another shape than its image,
        or marks pixels of a normal image; or an image has several masks.
    """
    every = folders.masks(folder)
    if not every or is_normal.all():
        return Found(None)
    mask_of, orphans = _paired(folder, paths, every)
    notes = tuple[str, ...]()
    if orphans:
        notes += (f"{len(orphans)} of {len(every)} masks belong to no test image: {orphans[0]}",)
    bare = [i for i in np.flatnonzero(~is_normal).tolist() if i not in mask_of]
    if bare:
        first, total = paths[bare[0]], int(np.sum(~is_normal))
        advice = f"add masks such as ground_truth/{first.parent.name}/{first.stem}_mask.png"
        lacking = f"{len(bare)} of {total} anomalous test images have no mask, first {first}"
        return Found(None, (*notes, f"{lacking}: there are no metrics by pixel; {advice}"))
    place_y, said = _decoded(mask_of, paths, is_normal, size, is_chosen)
    return Found(place_y, notes + said)


def _decoded(
    mask_of: dict[int, Path],
    paths: list[Path],
    is_normal: np.ndarray,
    size: tuple[int, ...],
    is_chosen: bool,
) -> tuple[Bool[np.ndarray, " N *P"], tuple[str, ...]]:
    """The places that masks mark, and a line on each kind of odd masks."""
    place_y, shares, shaded, empty = np.zeros((len(paths), *size), bool), [], 0, []
    for i, mask in sorted(mask_of.items()):
        marks, is_shaded = images.marked(mask)
        _refuse_shape(mask, marks, paths[i])
        if is_normal[i]:
            _refuse_marks(mask, marks, paths[i], is_chosen)
            continue
        place_y[i] = _resized(marks, size)
        shares.append(marks.mean())
        shaded += is_shaded
        empty += [] if marks.any() else [mask]
    notes: tuple[str, ...] = (
        f"masks mark {np.mean(shares):.2%} of the pixels of {len(shares)} anomalous test images",
    )
    if shaded:
        notes += (f"{shaded} masks have shades of grey: pixels from half of white on are marked",)
    if empty:
        notes += (f"{len(empty)} masks of anomalous images are black, first {empty[0]}",)
    if np.median(shares) > _MOST:
        notes += (
            f"half of the masks mark more than {_MOST:.0%} of their image: check that anomalous "
            "pixels are white and normal ones black",
        )
    return place_y, notes


def _paired(
    folder: Path, paths: list[Path], every: list[Path]
) -> tuple[dict[int, Path], list[Path]]:
    """The mask of each image that has one, by the image's position, and masks of no image."""
    by_key: dict[tuple[str, ...], list[int]] = {}
    by_name: dict[tuple[str, ...], list[int]] = {}
    for i, path in enumerate(paths):
        key = folders.identity(path, folder)
        by_key.setdefault(key, []).append(i)
        by_name.setdefault(key[-1:], []).append(i)
    mask_of: dict[int, Path] = {}
    orphans = []
    for mask in every:
        key = folders.identity(mask, folder, is_mask=True)
        found = by_key.get(key) or (by_name.get(key, []) if len(key) == 1 else [])
        if len(found) > 1:
            names = f"{paths[found[0]]} and {paths[found[1]]}"
            raise UserError(f"the mask {mask} fits {names}; put it into a folder of its class")
        if not found:
            orphans.append(mask)
        elif found[0] in mask_of:
            both = f"{mask_of[found[0]]} and {mask}"
            raise UserError(f"{both} are masks of {paths[found[0]]}; remove one of them")
        else:
            mask_of[found[0]] = mask
    return mask_of, orphans


def _refuse_shape(mask: Path, marks: np.ndarray, image: Path) -> None:
    """Refuse a mask whose sides are not those of its image, up to a common factor."""
    height, width = images.upright_size(image)
    if abs(marks.shape[0] * width - marks.shape[1] * height) > max(height, width):
        sizes = f"{marks.shape[0]} x {marks.shape[1]}, but its image {image} {height} x {width}"
        raise UserError(f"the mask {mask} has {sizes}; replace it by one of its image's size")


def _refuse_marks(mask: Path, marks: np.ndarray, image: Path, is_chosen: bool) -> None:
    if marks.any() and not is_chosen:
        raise UserError(
            f"{image} is normal by its folder, but its mask {mask} marks {int(marks.sum())} "
            "pixels; move the image to a folder of its defect, or remove the mask"
        )


def _resized(marks: Bool[np.ndarray, "h w"], size: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    """Pixels of which at least a quarter is marked, or as much as of any pixel, if that is less.

    So lines that become thinner than a pixel stay, and do not break.
    """
    share = images.resized(marks, size)
    return (share > 0) & (share >= min(0.25, share.max()))
