"""S0."""

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
    name="mnist_conv",
    method="conv",
    score="mae",
    studies=("scores_compared", "corrupted", "verdicts", "severity"),
    data=DataConfig(name="mnist", corruption="rotation:90", valid="test"),
    model=ModelConfig(latent=32),
    optim=OptimConfig(name="keras_adam", lr=1e-3, eps=1e-7),
    train=TrainConfig(epochs=30, batch_size=128, loss="mse"),
    threshold=ThresholdConfig(rule="mean_std:2", on="train", rows=2000),
)

if __name__ == "__main__":
    main(CONFIG)
