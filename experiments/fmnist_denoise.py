"""S2 denoise."""

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
    name="fmnist_denoise",
    method="conv",
    score="mse",
    studies=("denoising",),
    data=DataConfig(name="fashion_mnist", corruption="rotation:90", valid="test"),
    model=ModelConfig(latent=0, filters=(16, 8), head_kernel=3),
    optim=OptimConfig(name="keras_adam", lr=1e-3, eps=1e-7),
    train=TrainConfig(epochs=10, batch_size=32, loss="mse", noise_std=0.2),
    threshold=ThresholdConfig(rule="quantile:0.95", on="train"),
)

if __name__ == "__main__":
    main(CONFIG)
