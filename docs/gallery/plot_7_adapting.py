"""
Adapting to a site
==================

The shipped weights are adapted with undersampled scans only; no fully sampled scan is needed.
"""

# %%
# Undersampled slices of one site: two scans from the package at 4x, as if nothing else had been acquired. `mrihvae
# adapt` prepares its slices in the same way.
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
# Each step holds out some of the acquired lines, and the measurement-conditioned posterior r learns to predict them
# from the rest. Prior, decoder and q stay as they are. A real run takes hundreds of steps.
folder = Path(tempfile.mkdtemp())
run = Adaptation.new(mrihvae.load_model("default"), AdaptSettings(steps=6, check_every=3, most_checked=2))
adapt(run, slices, folder)

# %%
# Other lines are never used for training. The averaged weights are checked on them, and the best weights are kept, or
# the starting weights if none were better.
print(f"check before: {run.progress.start:.2f} dB, best: {run.progress.best:.2f} dB, at step {run.progress.best_step}")
lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
checks = [(line["step"], line["check"]) for line in lines if "check" in line]
figure, axis = plt.subplots(figsize=(6, 3.3), layout="constrained")
axis.plot(*zip(*checks), marker="o")
axis.set_xlabel("step")
axis.set_ylabel("held-out error over variance, dB")

# %%
# The weights and their card, which lists the scans, the starting weights and the check.
print(sorted(path.name for path in folder.iterdir()))
