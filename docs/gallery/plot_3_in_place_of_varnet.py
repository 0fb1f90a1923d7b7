"""
In place of VarNet
==================

`mrihvae.Reconstructor` has the same call as fastMRI's VarNet, with batches from fastMRI's data loader.
"""

# %%
# A folder like fastMRI's `multicoil_test`, with one undersampled file, which has the mask of its phase-encoding lines.
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from fastmri.data import SliceDataset
from fastmri.data.transforms import VarNetDataTransform, center_crop

import mrihvae

folder = Path(tempfile.mkdtemp()) / "multicoil_test"
folder.mkdir()
(scan,) = mrihvae.open_kspace(Path(mrihvae.__file__).parent / "demo_scans" / "pulseq_brain16.h5")
kspace = np.asarray(scan.kspace)
mask = mrihvae.sampling_pattern("equispaced_fraction", kspace.shape[-2:], acceleration=4, center_fraction=0.08, seed=2)
mrihvae.save(folder / "scan.h5", replace(scan, kspace=np.where(mask, kspace, 0), mask=mask[0], target=None))

# %%
# fastMRI's inference loop. Only the line of the model differs; there, fastMRI would load `fastmri.models.VarNet` and
# its weights.
model = mrihvae.Reconstructor.from_pretrained("multicoil")
images = []
for batch in torch.utils.data.DataLoader(SliceDataset(folder, "multicoil", VarNetDataTransform())):
    image = model(batch.masked_kspace, batch.mask)  # (1, H, W), in the scale of the scan
    images.append(center_crop(image, batch.crop_size)[0].numpy())
print(len(images), images[0].shape)

# %%
# The image, and the root-sum-of-squares of the fully sampled scan.
figure, axes = plt.subplots(1, 2, figsize=(6, 3.3), layout="constrained")
for axis, (name, shown) in zip(axes, {"Reconstructor": images[0], "target": scan.target[0]}.items()):
    axis.imshow(shown, cmap="gray", vmin=0, vmax=scan.target.max())
    axis.set_title(name)
    axis.axis("off")
