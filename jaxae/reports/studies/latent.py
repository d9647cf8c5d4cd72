"""Studies of the latent space."""

import numpy as np

from jaxae.reports.studies.context import Context, Findings

NEIGHBOURS = 4  # the fewest codes for t-SNE
GRID = 30  # images along each side of the decoded plane
STEPS = 10  # steps of an interpolation, including both ends


def latent_scatter(context: Context) -> Findings:
    """Codes [N, 2] of the test normals, with the decoded centroid of every class."""
    test = context.data.test
    z, class_id = context.outputs(test.x).z[~test.y], test.class_id[~test.y]
    classes = np.unique(class_id)
    centroids = np.stack([z[class_id == c].mean(axis=0) for c in classes])
    arrays = {
        "z": z,
        "class_id": class_id,
        "classes": classes,
        "centroids": centroids,
        "centroid_images": context.decode(centroids),
    }
    return Findings(arrays, {})


def latent_grid(context: Context) -> Findings:
    """The plane of codes, decoded over the central 96 % of the test normals along each axis."""
    test = context.data.test
    low, high = np.quantile(context.outputs(test.x).z[~test.y], [0.02, 0.98], axis=0)
    across, up = (np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(across, up[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
    images = context.decode(grid)
    arrays = {
        "images": images.reshape(GRID, GRID, *images.shape[1:]),
        "x_range": np.array([low[0], high[0]]),
        "y_range": np.array([low[1], high[1]]),
    }
    return Findings(arrays, {})


def tsne(context: Context) -> Findings:
    """t-SNE of the test normals' codes in two dimensions (van der Maaten and Hinton, 2008).

    The perplexity is 30, or a third of the other codes if there are fewer than 90.
    """
    from sklearn.manifold import TSNE

    test = context.data.test
    z = context.outputs(test.x).z[~test.y]
    projection = TSNE(
        n_components=2,
        perplexity=min(30.0, (len(z) - 1) / 3),
        init="pca" if z.shape[1] > 1 else "random",
        random_state=context.cfg.seed % 2**31,
    )
    points = projection.fit_transform(z)
    return Findings({"points": points, "class_id": test.class_id[~test.y]}, {})


def interpolation(context: Context) -> Findings:
    """Decoded codes on the straight line between those of two normals of different classes."""
    test = context.data.test
    order = context.pick(~test.y, len(test.y))
    first = order[0]
    other = next((i for i in order if test.class_id[i] != test.class_id[first]), order[-1])
    ends = test.x[[first, other]]
    z = context.outputs(ends).z
    share = np.linspace(0, 1, STEPS, dtype=np.float32)[:, None]
    arrays = {
        "images": context.decode((1 - share) * z[:1] + share * z[1:]),
        "ends": ends,
        "class_id": test.class_id[[first, other]],
    }
    return Findings(arrays, {})
