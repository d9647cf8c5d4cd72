"""S2 dense."""

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
    name="fmnist_dense",
    method="dense",
    score="mse",
    studies=("scores_compared", "verdicts"),
    data=DataConfig(name="fashion_mnist", corruption="rotation:90", valid="test"),
    model=ModelConfig(latent=64, code_activation="relu"),
    optim=OptimConfig(name="keras_adam", lr=1e-3, eps=1e-7),
    train=TrainConfig(epochs=10, batch_size=32, loss="mse"),
    threshold=ThresholdConfig(rule="quantile:0.95", on="train"),
)

if __name__ == "__main__":
    main(CONFIG)
