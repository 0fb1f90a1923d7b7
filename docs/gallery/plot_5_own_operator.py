"""
Your own operator in PnP-HVAE
=============================

PnP-HVAE works with any linear operator, given as its product A x and the product of its adjoint, A^H y.
"""

# %%
# This operator is not in the package: each pixel becomes the mean of nine neighbors in its row, as if the object moved
# along W. The adjoint shifts the other way.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import mrihvae
from mrihvae.physics import Linear
from mrihvae.pnp import PnPSettings

SHIFTS = range(-4, 5)


def move(image: torch.Tensor) -> torch.Tensor:
    return torch.stack([image.roll(shift, -1) for shift in SHIFTS]).mean(dim=0)


def move_back(data: torch.Tensor) -> torch.Tensor:
    return torch.stack([data.roll(-shift, -1) for shift in SHIFTS]).mean(dim=0)


motion = Linear(move, move_back)

# %%
# The inner products <A x, y> and <x, A^H y> must agree.
torch.manual_seed(0)
x, y = torch.randn(2, 1, 32, 32)
print(float((motion.forward(x) * y).sum()), float((x * motion.adjoint(y)).sum()))

# %%
# A blurred, noisy image, and the loop. The encoder is the full-data posterior q, which does not depend on the operator;
# a temperature tau below 1 keeps the latents closer to the mean of the prior.
(scan,) = mrihvae.open_kspace(Path(mrihvae.__file__).parent / "demo_scans" / "pulseq_brain16.h5")
image = torch.from_numpy(np.asarray(scan.target)) / scan.target.max()  # (slice, H, W)
noise = 0.01
blurred = motion.forward(image) + noise * torch.randn(image.shape)
settings = PnPSettings(iterations=20, encoder="complete", tau=0.8, gamma=0.03)
found = mrihvae.restore_images(mrihvae.load_model("restoration"), motion, blurred, noise, settings)


def psnr(estimate: torch.Tensor) -> float:
    return float(-10 * (estimate - image).square().mean().log10())


print(f"blurred {psnr(blurred):.2f} dB, restored {psnr(found.image):.2f} dB")

# %%
# The residual of each iteration shows whether the loop converges.
figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), layout="constrained")
for axis, (name, shown) in zip(axes, {"blurred": blurred, "restored": found.image, "image": image}.items()):
    axis.imshow(shown[0].numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(name)
    axis.axis("off")
axes[3].semilogy([float(one) for one in found.residual])
axes[3].set_xlabel("iteration")
axes[3].set_title("residual")
