"""A data set without download: procedural textures with drawn defects and their masks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxae.data.generated import defects, textures
from jaxae.data.own.schema import Schema
from jaxae.data.raw_data import Raw
from jaxae.rng import Purpose, host_generator

TRAIN, GOOD, EACH = 100, 20, 8  # training images; test images that are good, and of each defect
_ANY: dict[str, defects.Defect] = {
    "scratch": defects.scratch,
    "spot": defects.spot,
    "stain": defects.stain,
    "missing": defects.missing,
}
_ORDERED, _GRAINY = _ANY | {"bent": defects.bent}, _ANY | {"coarse": defects.coarse}


def load(texture: str, seed: int) -> Raw:
    """Photographs of a texture: good ones to train on, good and defect ones with masks to test.

    Image i depends on the texture, the seed and i alone.

    Returns:
      uint8 images [N, 256, 256, C]; the classes are "good" and the kinds of defects.

    Raises:
      UserError: the texture is unknown.
    """
    surface = textures.TEXTURES[texture]
    number = list(textures.TEXTURES).index(texture)
    kinds = _GRAINY if texture == "stone" else _ORDERED
    class_id = np.repeat(np.arange(1 + len(kinds)), [TRAIN + GOOD, *[EACH] * len(kinds)])
    draw = [_unchanged, *kinds.values()]

    def image(i: int) -> tuple[np.ndarray, np.ndarray]:
        rng = host_generator(seed, Purpose.GENERATION, number, i)
        changed, mask = draw[class_id[i]](rng, surface(rng))
        photograph = np.clip(textures.photograph(rng, changed), 0, 1)
        return np.round(255 * photograph).astype(np.uint8), mask

    with ThreadPoolExecutor() as threads:  # NumPy computes beside other threads
        images, masks = zip(*threads.map(image, range(len(class_id))), strict=True)
    x, y = np.stack(images), class_id.astype(np.int32)
    mode, size = "RGB" if x.shape[-1] == 3 else "L", x.shape[1:3]
    schema = Schema("images", classes=("good", *kinds), mode=mode, size=size)
    parts = x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]
    return Raw(*parts, (0,), schema=schema, test_place_y=np.stack(masks[TRAIN:]))


def _unchanged(_: np.random.Generator, surface: textures.Surface) -> defects.Drawn:
    return surface, np.zeros(surface.shape[:2], bool)
