"""Frechet distance between sets of images, in a fixed space of features that needs no trained weights.

The features of an image are the logarithms of mean and deviation of its local energy under log-Gabor filters (Field
1987), of 4 scales and 6 orientations, and of its magnitude: 50 numbers. The distance of two sets is that of the normal
distributions with their means and covariances (Heusel et al. 2017, eq. 6). It is no FID: that takes the weights of its
own Inception network; with torchvision's, which were trained otherwise, numbers compare among themselves alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrihvae.errors import InputError, reason

SCALES, ORIENTATIONS = 4, 6
FINEST = 0.25  # cycles per pixel
WIDTH = 0.65  # of a filter's frequency band
GABOR = "log-Gabor energies"
Features = Callable[[Tensor], Tensor]


def gabor_features(images: Tensor) -> Tensor:
    """Compute the features of magnitudes (n, h, w): (n, 50)."""
    height, width = images.shape[-2:]
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    radius, angle = torch.sqrt(x**2 + y**2).clamp_min(1e-6), torch.atan2(y, x)
    spectrum = torch.fft.fft2(images)
    found = [images]
    for scale in range(SCALES):
        band = torch.exp(-(torch.log(radius / (FINEST / 2**scale)) ** 2) / (2 * math.log(WIDTH) ** 2))
        for k in range(ORIENTATIONS):
            off = torch.remainder(angle - math.pi * k / ORIENTATIONS + math.pi, 2 * math.pi) - math.pi
            lobe = torch.exp(-(off**2) / (2 * (math.pi / ORIENTATIONS / 1.5) ** 2))
            found.append(torch.fft.ifft2(spectrum * band * lobe).abs())
    energies = torch.stack(found, dim=1).flatten(2)
    return torch.log(torch.cat((energies.mean(dim=-1), energies.std(dim=-1)), dim=1) + 1e-4)


def inception_features(weights: Path) -> Features:
    """Make features of Inception-v3's last pooling layer from the user's weights, torchvision's as safetensors.

    Raises
    ------
    InputError
        Not such weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weights)
        from torchvision.models import inception_v3

        net = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
        net.load_state_dict(tensors)
    except (OSError, ImportError, SafetensorError, RuntimeError) as error:
        why = reason(error)
        raise InputError(f"{weights}: not torchvision's inception_v3 as safetensors ({why})") from error
    net.fc = torch.nn.Identity()
    net.eval().requires_grad_(False)

    def features(images: Tensor) -> Tensor:
        three = images[:, None].expand(-1, 3, -1, -1)
        large = torch.nn.functional.interpolate(three, size=(299, 299), mode="bilinear", antialias=True)
        found: Tensor = net(2 * large.clamp(0, 1) - 1)
        return found

    return features


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Compute |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of two sets of features, (n, features) each."""
    one, two = (np.cov(features, rowvar=False) for features in (first, second))
    root = _root(one)
    both = np.trace(_root(root @ two @ root))
    return float(np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2) + np.trace(one) + np.trace(two) - 2 * both)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
