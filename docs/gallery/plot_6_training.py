"""
Training on your own slices
===========================

A network is trained on magnitude slices, which are made into complex scans with phase, noise and masks.
"""

# %%
# Slices come from any object with a method `draw`; `mrihvae.datasets.load_mixture` makes one from folders. Here, the
# slices are random ellipses.
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrihvae
from mrihvae.model import ModelSettings
from mrihvae.training import Run, SimulationSettings, TrainSettings, draw_batch, train

Y, X = np.mgrid[-1:1:64j, -1:1:64j]


class Ellipses:
    """Draws slices (h, w); the second of each pair says whether it is raw k-space."""

    def draw(self, count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, bool]]:
        return [(self.one(rng), False) for _ in range(count)]

    def one(self, rng: np.random.Generator) -> np.ndarray:
        image = np.zeros_like(X)
        for _ in range(8):
            (y, x), (h, w) = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.1, 0.5, 2)
            image[((Y - y) / h) ** 2 + ((X - x) / w) ** 2 < 1] += rng.uniform(0.2, 1.0)
        return image


# %%
# The training data of the network: a batch of simulated scans.
simulation = SimulationSettings(max_acceleration=4.0)
scans = draw_batch(Ellipses().draw(4, np.random.default_rng(0)), (64, 64), simulation, np.random.default_rng(1))
print(scans.kspace.shape, scans.kspace.dtype)

# %%
# To make the script fast, the network is much smaller than the shipped one, and trained for a few steps. A useful
# network needs thousands of steps. Prior, decoder, q and r are trained together from the first step.
torch.manual_seed(0)
model = ModelSettings(widths=(16, 16, 16), layers=1, cascades=0, guess_widths=(16,))
settings = TrainSettings(
    steps=40,
    shapes=((64, 64),),
    pixels=4 * 64 * 64,
    warmup=5,
    kl_warmup=10,
    guess_only=0,
    masked_start=0,
    prior_every=1,
)
folder = Path(tempfile.mkdtemp())
train(Run.new(model, settings, simulation, "cpu"), Ellipses(), folder)
print(sorted(path.name for path in folder.iterdir()))

# %%
# The log has one line per step; `mrihvae.evaluation.training_figure` plots all of it.
lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
figure, axis = plt.subplots(figsize=(6, 3.3), layout="constrained")
axis.plot([line["step"] for line in lines], [line["elbo"] for line in lines])
axis.set_xlabel("step")
axis.set_ylabel("negative ELBO, nats per real dimension")

# %%
# The weights are used like the shipped ones: `mrihvae reconstruct --checkpoint FILE`, and in Python:
method = mrihvae.load_method("amortized", str(folder / "weights.safetensors"))
