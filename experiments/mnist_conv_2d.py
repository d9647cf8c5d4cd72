"""S0's pictures: the same autoencoder with a plane of codes, latent 2, 10 epochs.

    python -m experiments.mnist_conv_2d --data.dir DIR

Draws the codes with every class's decoded centroid, the plane decoded on a 30 x 30 grid, and an
interpolation. 2 CPU cores (Xeon, AVX-512; shared, so wall times are upper bounds), jax 0.10.2,
float32: 123 s. Over seeds 0, 1, 2; one seed of the original, trained on the test images too:

                          jaxae              original
    training MSE          .04422 +- .00020   .0438
    test MSE              .04429 +- .00036   .0434
    flagged, normal       1.9 % +- 0.1 %     1.6 %
    flagged, rotated 90   29.4 % +- 3.4 %    20 %
    AUROC rotated, MAE    .9098 +- .0064     .904
    AUROC rotated, MSE    .9229 +- .0042     .929
"""

from dataclasses import replace

from experiments import mnist_conv
from jaxae.cli.train import main

CONFIG = replace(
    mnist_conv.CONFIG,
    name="mnist_conv_2d",
    studies=("scores_compared", "latent_scatter", "latent_grid", "interpolation", "corrupted"),
    model=replace(mnist_conv.CONFIG.model, latent=2),
    train=replace(mnist_conv.CONFIG.train, epochs=10),
)

if __name__ == "__main__":
    main(CONFIG)
