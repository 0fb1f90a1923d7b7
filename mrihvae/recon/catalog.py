"""Methods of reconstruction by name.

This module alone has the settings of every method, and their defaults from the card of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.inference.calibration import Calibration, calibration_path, load_calibration
from mrihvae.inference.settings import InferenceSettings, Sweeps
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights, weights_for
from mrihvae.model.weights import fingerprint, load_card, load_on
from mrihvae.pnp.settings import FOR_SCANS, PnPSettings
from mrihvae.recon.methods import (
    USUAL,
    AmortizedMethod,
    ClassicalMethod,
    HybridMethod,
    Method,
    ModelMethod,
    PnPMethod,
    SampleMeanMethod,
    ZeroFilledMethod,
)
from mrihvae.recon.settings import DEFAULT_SAMPLES, MODEL_METHODS, SAMPLING, check_settings, setting_names_of
from mrihvae.utils.config import as_dict, from_dict

CALIBRATED = ("temperature", "spread")  # settings whose defaults come with the weights


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
    calibrations: Mapping[str, Calibration] | None = None,
) -> Method:
    """Return a method by name, with settings and a model that is already loaded.

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
    calibrations : of the uncertainty, as they belong to the weights

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
        sample_sweeps=sample_sweeps, coils=coils, weights=weights, calibrations=calibrations,
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
        given |= {"calibrations": method.calibrations}
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
    """Return a method by name, with its weights and the settings that calibrate their posterior samples.

    Parameters
    ----------
    name : one of `mrihvae.recon.settings.METHODS`
    weights : name of shipped weights, or a .safetensors file; None for the shipped ones, by `several_coils`
    device : torch device of the model
    several_coils : whether scans have several coils
    coils : how several coils are processed
    settings : settings of the method, by name: those of `InferenceSettings` and its refinement, `samples` and
        `sample_sweeps` for "hybrid", "amortized" and "samples"; of `PnPSettings` for "pnp"; `strength` for "sense",
        "wavelet" and "tv"

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
    found = load_calibration(calibration_path(path), mark)
    return make_method(name, model, inference, coils=coils, weights=mark, calibrations=found, **drawing)
