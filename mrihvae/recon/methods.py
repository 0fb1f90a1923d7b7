"""Methods of reconstruction by name, and the settings with which they infer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.inference.settings import InferenceSettings
from mrihvae.pnp.settings import FOR_SCANS, PnPSettings

if TYPE_CHECKING:
    from mrihvae.model.hvae import HVAE

SAMPLING_METHODS = ("hybrid", "amortised", "samples")  # in which posterior samples can be drawn
MODEL_METHODS = (*SAMPLING_METHODS, "pnp")
USUAL = CoilSettings()
METHODS = (*MODEL_METHODS, "zero-filled", "sense", "wavelet", "tv")


@dataclass(frozen=True)
class Method:
    """A way to reconstruct.

    Attributes
    ----------
    name : one of `METHODS`; "amortised" is one look of r at the data, "hybrid" goes on from there, "samples" is the
        mean of posterior samples, "pnp" is PnP-HVAE; "sense" is CG-SENSE
    model : the weights, for the first four of these
    inference : settings of the hybrid and of samples; "amortised" has one view, one round and no sweeps, "samples"
        no sweeps
    samples : how many "samples" draws
    pnp : settings of "pnp"
    strength : regularisation of "sense", "wavelet" and "tv" in model units; None for the tuned one
    coils : what is done with several coils
    """

    name: str
    model: HVAE | None = None
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    samples: int = 8
    strength: float | None = None
    pnp: PnPSettings = FOR_SCANS
    coils: CoilSettings = USUAL

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise InputError(f"method '{self.name}' is unknown; choose one of {', '.join(METHODS)}")
        if self.name in MODEL_METHODS and self.model is None:
            raise InputError(f"method '{self.name}' needs a model; load one with mrihvae.model.weights.load_model")


def settings_of(method: Method) -> InferenceSettings:
    """Give the settings of a method: the amortised one has one view, one round and no sweeps, samples no sweeps."""
    if method.name == "amortised":
        return replace(method.inference, views=1, rounds=1, sweeps=0)
    return replace(method.inference, sweeps=0) if method.name == "samples" else method.inference


def inference_of(method: Method) -> dict[str, Any] | None:
    """Give the settings with which a method infers, as they count for it; None for methods that do not."""
    return dataclasses.asdict(settings_of(method)) if method.name in SAMPLING_METHODS else None
