"""S0 latent 2."""

from dataclasses import replace

from experiments import mnist_conv
from jaxae.experiment import main

CONFIG = replace(
    mnist_conv.CONFIG,
    name="mnist_conv_2d",
    studies=("scores_compared", "latent_scatter", "latent_grid", "interpolation", "corrupted"),
    model=replace(mnist_conv.CONFIG.model, latent=2),
    train=replace(mnist_conv.CONFIG.train, epochs=10),
)

if __name__ == "__main__":
    main(CONFIG)
