"""
A fastMRI file
==============

A fully sampled fastMRI file is undersampled at 4x, reconstructed, and compared with its target.
"""

# %%
# The scan comes with the package: raw k-space at 0.055 T, one coil. `mrihvae.open_kspace` detects the format of a file;
# it returns a list, because files of other formats may hold several scans.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mrihvae
from mrihvae.evaluation import score_volume

path = Path(mrihvae.__file__).parent / "demo_scans" / "patient_6A_FLAIR.h5"
(scan,) = mrihvae.open_kspace(path)
print(scan.kspace.shape, scan.kspace.dtype)

# %%
# A random mask of phase-encoding lines, drawn as in fastMRI. Samples outside the mask are ignored, even if the file has
# them.
height, width = scan.kspace.shape[-2:]
mask = mrihvae.sampling_pattern("random", (height, width), acceleration=4, center_fraction=0.08, seed=0)
print(f"{mask[0].sum()} of {width} lines")

# %%
# Zero-filling and the default method on two slices. PSNR and SSIM are computed as in fastMRI.
target = np.asarray(scan.target)[1:3]
images = {}
for method in ("zero-filled", "hybrid"):
    images[method] = mrihvae.reconstruct(scan.kspace[1:3], mask, axes="slice H W", method=method).magnitude
    scores = score_volume(target, images[method])
    print(f"{method:<12} {scores['PSNR']:.2f} dB, SSIM {scores['SSIM']:.3f}")

# %%
# The target is itself noisy.
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, (name, volume) in zip(axes, {**images, "target": target}.items()):
    axis.imshow(volume[0], cmap="gray", vmin=0, vmax=target[0].max())
    axis.set_title(name)
    axis.axis("off")
