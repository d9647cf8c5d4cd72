"""S1."""

from jaxae.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
)
from jaxae.experiment import main

CONFIG = ExperimentConfig(
    name="mnist_conv_latent",
    method="conv",
    score="mse",
    cpu_devices=1,  # its 7 x 7 layers are matrix products: 290 steps/s against 250 on two
    studies=(
        "scores_compared",
        "corrupted",
        "batch_threshold",
        "loss_histograms",
        "epoch_grid",
        "tsne",
        "interpolation",
        "denoising",
        "verdicts",
    ),
    data=DataConfig(name="mnist", corruption="rotation:90", valid="test"),
    model=ModelConfig(
        latent=20,
        filters=(16, 32, 64),
        kernels=(3, 3, 7),
        strides=(2, 2, 1),
        paddings=("1", "1", "valid"),
        encoder_activation="linear",
        expand_activation="linear",
        initializer="torch",
    ),
    optim=OptimConfig(lr=1e-3, weight_decay=1e-5),
    train=TrainConfig(epochs=20, batch_size=64, loss="mse", checkpoint_every=4, keep_checkpoints=0),
    threshold=ThresholdConfig(rule="mean_std:1", on="valid"),
)

if __name__ == "__main__":
    main(CONFIG)
