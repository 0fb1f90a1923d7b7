"""
Posterior samples and calibrated uncertainty
============================================

Posterior samples give a calibrated standard deviation of the image's error, and lower bounds of its PSNR and SSIM.
"""

# %%
# One slice of raw k-space at 0.055 T, at 4x, with 8 posterior samples.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mrihvae
from mrihvae.evaluation import score_volume

(scan,) = mrihvae.open_kspace(Path(mrihvae.__file__).parent / "demo_scans" / "patient_6A_FLAIR.h5")
kspace, target = np.asarray(scan.kspace)[1], np.asarray(scan.target)[1]
mask = mrihvae.sampling_pattern("random", kspace.shape, acceleration=4, center_fraction=0.08, seed=3)
found = mrihvae.reconstruct(kspace, mask, samples=8, seed=1)
print(found.samples.shape, found.std.shape)
for warning in found.warnings:
    print("warning:", warning)

# %%
# Inside the object, a fully sampled scan with the same noise lies within the image plus or minus 1.645 standard
# deviations in 90 % of the pixels. This holds on average over subjects whose scans resemble those of the calibration,
# not for each scan. Here, there is a fully sampled scan to compare with.
inside = target > 0.1 * target.max()
error = np.abs(found.magnitude - target)
held = (error <= 1.645 * found.std)[inside].mean()
print(f"{100 * held:.0f} % of the pixels inside the object lie in their interval")

# %%
# The bounds: the PSNR of the volume is at least its bound for 90 % of new subjects, and so is the SSIM.
bounds = found.bounds[0]
print(f"PSNR at least {bounds.psnr_at_least:.1f} dB, SSIM at least {bounds.ssim_at_least:.2f}")
print(f"true PSNR: {score_volume(target[None], found.magnitude[None])['PSNR']:.1f} dB")

# %%
# Samples differ where the data contain little information. The map shows where errors are likely, not where they are.
shown = {
    "reconstruction": found.magnitude,
    "a sample": found.samples[0],
    "another": found.samples[1],
    "error x 4": 4 * error,
    "SD x 4": 4 * found.std,
}
figure, axes = plt.subplots(1, len(shown), figsize=(11, 2.7), layout="constrained")
for axis, (name, image) in zip(axes, shown.items()):
    axis.imshow(image, cmap="gray", vmin=0, vmax=target.max())
    axis.set_title(name)
    axis.axis("off")
