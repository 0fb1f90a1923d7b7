"""Methods of reconstruction: each computes the complex images of prepared slices.

`mrihvae.recon.catalog` gives them by name.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.settings import CoilSettings
from mrihvae.inference.calibration import ONE_COIL, SEVERAL_COILS, Calibration
from mrihvae.inference.reconstruct import reconstruct, sample
from mrihvae.inference.settings import InferenceSettings, Sweeps
from mrihvae.inference.tv_blend import tv_shares
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import ifft2c
from mrihvae.pnp.reconstruct import reconstruct_scans
from mrihvae.pnp.settings import FOR_SCANS, PnPSettings
from mrihvae.recon import classical
from mrihvae.recon.settings import DEFAULT_SAMPLES
from mrihvae.recon.sliced_scan import Batch
from mrihvae.utils.config import as_dict, with_settings

USUAL = CoilSettings()
UNCALIBRATED = ("precision", "spread")  # settings that a calibration does not depend on


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A reconstruction method; `mrihvae.load_method` and `mrihvae.recon.make_method` return one by name.

    Attributes
    ----------
    name : one of `mrihvae.recon.settings.METHODS`
    coils : how several coils are processed
    """

    name: str
    coils: CoilSettings = USUAL
    combines: ClassVar[bool] = True  # several coils, by sensitivity maps

    @abstractmethod
    def reconstruct(self, batch: Batch) -> Tensor:
        """Reconstruct slices: complex (slices, H, W), or coil images (slices, coils, H, W) if it does not combine."""

    @property
    def takes_fit(self) -> bool:
        """Whether the method has something to learn from a single-coil scan before it reconstructs it."""
        return False

    def fit(self, batch: Batch, measured: Tensor) -> Self:
        """Return the method fitted to a scan by one of its slices.

        Parameters
        ----------
        batch : the slice
        measured : bool, broadcast to (H, W), True where acquired
        """
        return self

    def settings(self) -> dict[str, Any]:
        """Return the settings that count for this method, as plain values."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ModelMethod(Method):
    """A way to reconstruct with weights.

    Attributes
    ----------
    model : the network
    weights : fingerprint of its weights, where they were loaded from a file
    """

    model: HVAE
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class HybridMethod(ModelMethod):
    """IA-HVAE ("hybrid"): encoder passes, and refinement of latents band by band.

    Attributes
    ----------
    inference : as it was given; `point` and `sampling` are what counts
    samples : how many posterior samples `sample` draws
    sample_sweeps : refinement steps of these; 0 takes them as r draws them, for which its spread is calibrated
    tv_shares : of total variation in each band, for the scan that the method was fitted to; None before that
    calibrations : of the weights' uncertainty, by number of coils (`mrihvae.inference.calibration`); None without
    """

    inference: InferenceSettings
    samples: int = DEFAULT_SAMPLES
    sample_sweeps: Sweeps = 0
    tv_shares: tuple[float, ...] | None = None
    calibrations: Mapping[str, Calibration] | None = None

    @property
    def point(self) -> InferenceSettings:
        """How the point estimate is inferred."""
        return self.inference

    @property
    def sampling(self) -> InferenceSettings:
        """How samples are drawn."""
        return with_settings(self.point, sweeps=self.sample_sweeps)

    def reconstruct(self, batch: Batch) -> Tensor:
        """Infer the images of slices: complex (slices, H, W)."""
        shares = self.tv_shares or ()
        return reconstruct(self.model, batch.kspace, batch.known, batch.maps, self.point, batch.noise, shares)

    @property
    def takes_fit(self) -> bool:
        """Whether to estimate how much of total variation the scan asks for."""
        return self.tv_shares is None and self.point.tv_blend

    def fit(self, batch: Batch, measured: Tensor) -> Self:
        """Estimate how much of total variation a single-coil scan asks for."""
        shares = tv_shares(self.model, batch.kspace, measured, batch.known, self.point, batch.noise)
        return replace(self, tv_shares=shares)

    def sample(self, batch: Batch, seed: int = 0) -> Tensor:
        """Draw posterior samples: complex (samples, slices, H, W)."""
        return sample(
            self.model, batch.kspace, batch.known, self.samples, batch.maps, self.sampling, seed, batch.first,
            batch.noise,
        )  # fmt: skip

    def reconstruct_with(self, batch: Batch, samples: Tensor) -> Tensor:
        """Infer the images of slices of which samples are drawn already: complex (slices, H, W)."""
        return self.reconstruct(batch)

    def calibration_for(self, coils: int) -> Calibration | None:
        """Return the calibration of the uncertainty for scans of so many coils, if there is one for these settings."""
        found = (self.calibrations or {}).get(SEVERAL_COILS if coils > 1 else ONE_COIL)
        return found if found is not None and found.settings == self.calibrated_settings() else None

    def calibrated_settings(self) -> dict[str, Any]:
        """Return the settings for which alone a calibration holds, as JSON has them."""
        own = {**as_dict(self.point), "method": self.name, "sample_sweeps": self.sample_sweeps}
        found: dict[str, Any] = json.loads(json.dumps({key: own[key] for key in own if key not in UNCALIBRATED}))
        return found

    def settings(self) -> dict[str, Any]:
        """Return the settings of the point estimate."""
        return as_dict(self.point)


@dataclass(frozen=True, kw_only=True)
class AmortizedMethod(HybridMethod):
    """A single encoder pass, without refinement ("amortized")."""

    @property
    def point(self) -> InferenceSettings:
        """One view, one round, no sweeps, nothing but the network's answer."""
        return with_settings(self.inference, views=1, rounds=1, sweeps=0, tv_blend=False)


@dataclass(frozen=True, kw_only=True)
class SampleMeanMethod(HybridMethod):
    """The mean of posterior samples ("samples")."""

    def reconstruct(self, batch: Batch) -> Tensor:
        """Average samples: complex (slices, H, W)."""
        return self.sample(batch).mean(dim=0)

    def reconstruct_with(self, batch: Batch, samples: Tensor) -> Tensor:
        """Average samples that are drawn already: complex (slices, H, W)."""
        return samples.mean(dim=0)

    @property
    def takes_fit(self) -> bool:
        """Return False: samples are those of the network alone."""
        return False

    def settings(self) -> dict[str, Any]:
        """Return the settings of sampling."""
        return as_dict(self.sampling)


@dataclass(frozen=True, kw_only=True)
class PnPMethod(ModelMethod):
    """PnP-HVAE ("pnp").

    Attributes
    ----------
    pnp : of the loop
    """

    pnp: PnPSettings = FOR_SCANS

    def reconstruct(self, batch: Batch) -> Tensor:
        """Run the loop: complex (slices, H, W)."""
        return reconstruct_scans(self.model, batch.kspace, batch.known, batch.maps, self.pnp, batch.noise)[0]

    def settings(self) -> dict[str, Any]:
        """Return the settings of the loop."""
        return as_dict(self.pnp)


@dataclass(frozen=True, kw_only=True)
class ZeroFilledMethod(Method):
    """The inverse Fourier transform of the data alone ("zero-filled"); several coils stay apart."""

    name: str = "zero-filled"
    combines: ClassVar[bool] = False

    def reconstruct(self, batch: Batch) -> Tensor:
        """Transform the data: complex (slices, H, W), or (slices, coils, H, W)."""
        return ifft2c(batch.kspace)


@dataclass(frozen=True, kw_only=True)
class ClassicalMethod(Method):
    """Methods without weights: CG-SENSE ("sense"), l1-wavelet ("wavelet") and total variation ("tv"), by sigpy.

    Attributes
    ----------
    strength : of regularization, in model units; None for the tuned one
    """

    strength: float | None = None

    def reconstruct(self, batch: Batch) -> Tensor:
        """Solve slice by slice: complex (slices, H, W)."""
        if self.name == "sense" and batch.maps is None:  # its result for one coil of sensitivity 1
            return ifft2c(batch.kspace)
        strength = self.usual_strengths()[batch.maps is not None] if self.strength is None else self.strength
        assert strength is not None
        if self.name == "sense" and batch.maps is not None:
            return classical.conjugate_gradient_sense(batch.kspace, batch.known, batch.maps, strength)
        solve = classical.wavelet if self.name == "wavelet" else classical.total_variation
        pattern = batch.known.expand(batch.kspace.shape[-2:]).numpy()
        maps = [None] * len(batch.kspace) if batch.maps is None else batch.maps.numpy()
        images = [solve(y, pattern, strength, maps=own) for y, own in zip(batch.kspace.numpy(), maps, strict=True)]
        return torch.from_numpy(np.stack(images))

    def usual_strengths(self) -> tuple[float | None, float]:
        """Return the tuned strengths for one coil and for several."""
        return classical.DEFAULT_STRENGTH.get(self.name), classical.COIL_STRENGTH[self.name]

    def settings(self) -> dict[str, Any]:
        """Return the strength, if it is not the tuned one."""
        return {} if self.strength is None else {"strength": self.strength}
