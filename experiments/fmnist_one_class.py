"""S3."""

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
    name="fmnist_one_class",
    method="dense",
    score="mse",
    studies=("scores_compared", "verdicts"),
    data=DataConfig(name="fashion_mnist", normal=(0,), anomaly=(1,)),
    model=ModelConfig(latent=100, hidden=(800, 400), code_activation="relu"),
    optim=OptimConfig(name="keras_adam", lr=1e-3, eps=1e-7),
    train=TrainConfig(epochs=10, batch_size=128, loss="bce"),
    threshold=ThresholdConfig(rule="mean_std:1", on="valid"),
)

if __name__ == "__main__":
    main(CONFIG)
