"""Methods of reconstruction: each computes the complex images of prepared slices.

This module alone has the settings of every method, and their defaults from the card of the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.inference.reconstruct import reconstruct, sample
from mrihvae.inference.settings import InferenceSettings, Sweeps
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights, weights_for
from mrihvae.model.weights import fingerprint, load_card, load_on
from mrihvae.physics.fourier import ifft2c
from mrihvae.pnp.reconstruct import reconstruct_scans
from mrihvae.pnp.settings import FOR_SCANS, PnPSettings
from mrihvae.recon import classical
from mrihvae.recon.settings import DEFAULT_SAMPLES, MODEL_METHODS, SAMPLING, check_settings, setting_names_of
from mrihvae.recon.sliced_scan import Batch
from mrihvae.utils.config import as_dict, from_dict, with_settings

CALIBRATED = ("temperature", "spread")  # settings whose defaults come with the weights
USUAL = CoilSettings()


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method of reconstruction; `mrihvae.load_method` and `mrihvae.recon.make_method` give them by name.

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
    """

    inference: InferenceSettings
    samples: int = DEFAULT_SAMPLES
    sample_sweeps: Sweeps = 0

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
        return reconstruct(self.model, batch.kspace, batch.known, batch.maps, self.point, batch.noise)

    def sample(self, batch: Batch, seed: int = 0) -> Tensor:
        """Draw posterior samples: complex (samples, slices, H, W)."""
        return sample(
            self.model, batch.kspace, batch.known, self.samples, batch.maps, self.sampling, seed, batch.first,
            batch.noise,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Return the settings of the point estimate."""
        return as_dict(self.point)


@dataclass(frozen=True, kw_only=True)
class AmortizedMethod(HybridMethod):
    """A single encoder pass, without refinement ("amortized")."""

    @property
    def point(self) -> InferenceSettings:
        """One view, one round, no sweeps."""
        return with_settings(self.inference, views=1, rounds=1, sweeps=0)


@dataclass(frozen=True, kw_only=True)
class SampleMeanMethod(HybridMethod):
    """The mean of posterior samples ("samples")."""

    def reconstruct(self, batch: Batch) -> Tensor:
        """Average samples: complex (slices, H, W)."""
        return self.sample(batch).mean(dim=0)

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


def make_method(
    name: str,
    model: HVAE | None = None,
    inference: InferenceSettings | None = None,
    samples: int = DEFAULT_SAMPLES,
    *,
    strength: float | None = None,
    pnp: PnPSettings = FOR_SCANS,
    coils: CoilSettings = USUAL,
    sample_sweeps: Sweeps = 0,
    weights: str = "",
) -> Method:
    """Return the method of a name, with settings and a model that is already loaded.

    Settings that the method does not take are ignored.

    Parameters
    ----------
    name : one of `mrihvae.recon.settings.METHODS`
    model : of the methods with weights
    inference : of "hybrid", "amortized" and "samples"; None for the usual settings
    samples : number of posterior samples of "samples"
    strength : of the regularization of "sense", "wavelet" and "tv"; None for the usual one
    pnp : of "pnp"
    coils : how several coils are processed
    sample_sweeps : refinement steps of posterior samples, one number, or one a level
    weights : name of the weights, for records

    Raises
    ------
    InputError
        An unknown name, or a missing model.

    Examples
    --------
    >>> from mrihvae.recon import make_method
    >>> make_method("tv", strength=0.01).settings()
    {'strength': 0.01}
    """
    setting_names_of(name)  # refuses what is unknown
    if name == "zero-filled":
        return ZeroFilledMethod(coils=coils)
    if name not in MODEL_METHODS:
        return ClassicalMethod(name=name, strength=strength, coils=coils)
    if model is None:
        raise InputError(f"method '{name}' needs a model; load one with mrihvae.model.weights.load_model")
    if name == "pnp":
        return PnPMethod(name=name, model=model, pnp=pnp, coils=coils, weights=weights)
    kinds = {"hybrid": HybridMethod, "amortized": AmortizedMethod, "samples": SampleMeanMethod}
    return kinds[name](
        name=name, model=model, inference=inference or InferenceSettings(), samples=samples,
        sample_sweeps=sample_sweeps, coils=coils, weights=weights,
    )  # fmt: skip


def change_method(method: Method, name: str, samples: int) -> Method:
    """Return another method of the same weights and settings, or with an empty name the same with other `samples`.

    Raises
    ------
    InputError
        An unknown name, or a method that needs weights, of one that has none.
    """
    given: dict[str, Any] = {}
    if isinstance(method, ModelMethod):
        given |= {"model": method.model, "weights": method.weights}
    if isinstance(method, HybridMethod):
        given |= {"inference": method.inference, "sample_sweeps": method.sample_sweeps}
    if isinstance(method, PnPMethod):
        given |= {"pnp": method.pnp}
    if isinstance(method, ClassicalMethod):
        given |= {"strength": method.strength}
    return make_method(name or method.name, samples=samples, coils=method.coils, **given)


def load_method(
    name: str = "hybrid",
    weights: str | None = None,
    device: str = "cpu",
    *,
    several_coils: bool = False,
    coils: CoilSettings = USUAL,
    **settings: Any,
) -> Method:
    """Return the method of a name, with its weights and the settings that calibrate their posterior samples.

    Parameters
    ----------
    name : one of `mrihvae.recon.settings.METHODS`
    weights : name of shipped weights, or a .safetensors file; None for the shipped ones, by `several_coils`
    device : torch device of the model
    several_coils : whether scans have several coils
    coils : how several coils are processed
    settings : of the method, by name: those of `InferenceSettings` and its refinement, `samples` and `sample_sweeps`
        for "hybrid", "amortized" and "samples"; of `PnPSettings` for "pnp"; `strength` for "sense", "wavelet" and "tv"

    Returns
    -------
    a method for `mrihvae.reconstruct`, `mrihvae.reconstruct_scan` or `mrihvae.Reconstructor`

    Raises
    ------
    InputError
        An unknown name or setting, a bad value, or weights or a device that cannot be used.

    Examples
    --------
    >>> import mrihvae
    >>> mrihvae.load_method("hybrid", views=1).inference.views
    1

    References
    ----------
    * "Iterative Amortized Hierarchical VAE" (IA-HVAE), https://doi.org/10.48550/arXiv.2601.15894
    * Prost et al. 2023 (PnP-HVAE), https://doi.org/10.48550/arXiv.2303.11217
    * Pruessmann et al. 2001 (CG-SENSE), https://doi.org/10.1002/mrm.1241
    * Lustig et al. 2007 (l1-wavelet), https://doi.org/10.1002/mrm.21391
    * Block et al. 2007 (total variation), https://doi.org/10.1002/mrm.21236
    """
    where = "pnp settings" if name == "pnp" else "inference settings"
    check_settings(name, settings, where)
    if not isinstance(coils, CoilSettings):
        raise InputError(f"coils is {coils!r}; give CoilSettings")
    if name not in MODEL_METHODS:
        return make_method(name, strength=settings.get("strength"), coils=coils)
    weights = weights or weights_for(2 if several_coils else 1)
    path = find_weights(weights)
    model, mark = load_on(weights, device), fingerprint(path)
    if name == "pnp":
        pnp = from_dict(PnPSettings, as_dict(FOR_SCANS) | settings, where)
        return make_method(name, model, pnp=pnp, coils=coils, weights=mark)
    drawing = {key: settings.pop(key) for key in SAMPLING if key in settings}
    card = load_card(path)
    own = {key: card[key] for key in CALIBRATED if key in card}
    inference = from_dict(InferenceSettings, own | settings, where)
    return make_method(name, model, inference, coils=coils, weights=mark, **drawing)
