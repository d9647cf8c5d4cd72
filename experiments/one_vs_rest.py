"""One-vs-rest: each class is the normal one in turn, with several seeds, in one program.

    python -m experiments.one_vs_rest --data.name digits --method dense --seeds 5
    python -m experiments.one_vs_rest --data.name mnist --data.dir DIR --method conv --members 0:10

Prints and plots the AUROC of each class and their mean, with an interval over test rows and seeds,
and compares them with methods without a network on the same rows. Repeat a command with the same
--run-dir to resume it; calls with different --members and the same --run-dir are merged.
"""

import sys

from jaxae.cli.train import main
from jaxae.config import AloccConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from jaxae.config.grids import ProtocolConfig

RECIPES = {
    "dense": ProtocolConfig(
        name="one_vs_rest_dense",
        method="dense",
        score="mse+row_knn",
        data=DataConfig(name="digits", input="auto"),
        model=ModelConfig(
            latent=32, hidden=(256, 128), activation="elu", output_activation="linear"
        ),
        train=TrainConfig(epochs=20, batch_size="auto", noise_std=0.1, noise_clip=False),
    ),
    "conv": ProtocolConfig(
        name="one_vs_rest_conv",
        method="conv",
        score="blurred_energy",
        data=DataConfig(name="digits"),
        model=ModelConfig(latent=32),
        train=TrainConfig(epochs=20, batch_size="auto", noise_std=0.5),
    ),
    "alocc": ProtocolConfig(
        name="one_vs_rest_alocc",
        method="alocc",
        score="blurred_energy",
        data=DataConfig(name="mnist"),
        alocc=AloccConfig(bottleneck=16, code_noise=0.3, spectral=True, ema=0.99),
        optim=OptimConfig(lr=1e-3, lr_discriminator=2e-4),
        train=TrainConfig(epochs=10, batch_size=64, noise_std=0.155, monitor=True),
    ),
}


def recipe(args: list[str]) -> ProtocolConfig:
    """Default settings of the method that `args` names; of dense if it names none or another."""
    words = " ".join(args).replace("=", " ").split()
    named = words[words.index("--method") + 1 :][:1] if "--method" in words else []
    return RECIPES.get(*named, RECIPES["dense"]) if named else RECIPES["dense"]


if __name__ == "__main__":
    main(recipe(sys.argv[1:]))
