"""
Multi-coil scans with your own maps
===================================

Sensitivity maps are estimated from the calibration region unless they are given.
"""

# %%
# A head at 3 T with 16 coils, and a random mask at 4x.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrihvae
from mrihvae.coils import CoilSettings
from mrihvae.evaluation import score_volume

path = Path(mrihvae.__file__).parent / "demo_scans" / "pulseq_brain16.h5"
(scan,) = mrihvae.open_kspace(path)
kspace = np.asarray(scan.kspace)  # (slice, coil, H, W)
mask = mrihvae.sampling_pattern("random", kspace.shape[-2:], acceleration=4, center_fraction=0.08, seed=1)

# %%
# Maps from another source, such as a calibration scan, have the shape (coil, H, W) or (slice, coil, H, W), and a
# root-sum-of-squares of 1. Here, ESPIRiT estimates them from the fully sampled scan, which is not available in
# practice.
everywhere = torch.ones(kspace.shape[-2:], dtype=torch.bool)
maps = mrihvae.estimate_maps(torch.from_numpy(kspace), everywhere, CoilSettings(refine_maps=0))
print(maps.shape, maps.dtype)

# %%
# The same undersampled k-space, with maps from its own calibration region and with the given maps.
method = mrihvae.load_method("amortized", "multicoil")
found = {
    "maps of its ACS": mrihvae.reconstruct(kspace, mask, method=method),
    "given maps": mrihvae.reconstruct(kspace, mask, maps=maps.numpy(), method=method),
}
target = np.asarray(scan.target)
for name, one in found.items():
    print(f"{name:<16} {score_volume(target, one.magnitude)['PSNR']:.2f} dB")

# %%
# The magnitude is the root-sum-of-squares, as in fastMRI's targets; `image` is the complex image, combined with the
# maps. The top row shows six of the maps.
figure, axes = plt.subplots(2, 6, figsize=(9, 3.3), layout="constrained")
for axis, one in zip(axes[0], maps[0].abs().numpy()):
    axis.imshow(one, cmap="gray", vmin=0, vmax=1)
shown = [one.magnitude[0] for one in found.values()] + [target[0]]
for axis, image, name in zip(axes[1], shown, (*found, "target")):
    axis.imshow(image, cmap="gray", vmin=0, vmax=target.max())
    axis.set_title(name, fontsize=8)
for axis in axes.flat:
    axis.axis("off")
