"""
Adapting to a site
==================

The shipped weights are adapted to undersampled scans, without any fully sampled scan.
"""

# %%
# Undersampled slices of one site: two scans of the package at 4x, as if nothing else had been acquired. Slices of
# `mrihvae adapt` are made like this, too.
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrihvae
from mrihvae.physics import noise_std
from mrihvae.training import Adaptation, AdaptSettings, UndersampledSlice, adapt

slices = []
for seed, path in enumerate(sorted((Path(mrihvae.__file__).parent / "demo_scans").glob("patient*.h5"))):
    (scan,) = mrihvae.open_kspace(path)
    pattern = mrihvae.sampling_pattern("random", scan.kspace.shape[-2:], 4, center_fraction=0.08, seed=seed)
    kspace = torch.from_numpy(np.where(pattern, np.asarray(scan.kspace), 0))
    mask = torch.from_numpy(pattern)
    slices += [UndersampledSlice.of(y, mask, mask, s, name=scan.name) for y, s in zip(kspace, noise_std(kspace))]
print(len(slices), "slices")

# %%
# Each step holds some of the acquired lines out, and the measurement-conditioned posterior r is to predict them from
# the rest. Prior, decoder and q stay as they are. A real run takes hundreds of steps.
folder = Path(tempfile.mkdtemp())
run = Adaptation.new(mrihvae.load_model("default"), AdaptSettings(steps=6, check_every=3, most_checked=2))
adapt(run, slices, folder)

# %%
# Other lines are never trained on. The averaged weights are checked on them, and the best ones are kept; those of the
# start if none were better.
print(f"check before: {run.progress.start:.2f} dB, best: {run.progress.best:.2f} dB, at step {run.progress.best_step}")
lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
checks = [(line["step"], line["check"]) for line in lines if "check" in line]
figure, axis = plt.subplots(figsize=(6, 3.3), layout="constrained")
axis.plot(*zip(*checks), marker="o")
axis.set_xlabel("step")
axis.set_ylabel("held-out error over variance, dB")

# %%
# The weights and their card, which names scans, start and check.
print(sorted(path.name for path in folder.iterdir()))
