"""Names of the methods of reconstruction, and of their settings; without torch, for options and protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrihvae.errors import InputError, nearest
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils.config import from_dict, setting_names

SAMPLING_METHODS = ("hybrid", "amortized", "samples")  # those that support posterior sampling
MODEL_METHODS = (*SAMPLING_METHODS, "pnp")
CLASSICAL_METHODS = ("sense", "wavelet", "tv")
METHODS = (*MODEL_METHODS, "zero-filled", *CLASSICAL_METHODS)
DEFAULT_SAMPLES = 8


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of posterior sampling, beside those of inference.

    Attributes
    ----------
    samples : number of posterior samples
    sample_sweeps : refinement steps of these, per level; 0 takes them as r draws them
    """

    samples: int = DEFAULT_SAMPLES
    sample_sweeps: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples {self.samples} must be at least 1")
        RefinementSettings(sweeps=self.sample_sweeps)


@dataclass(frozen=True)
class ClassicalSettings:
    """Settings of methods without weights.

    Attributes
    ----------
    strength : of regularization, in model units; None for the tuned one
    """

    strength: float | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and not self.strength > 0:
            raise InputError(f"strength {self.strength} must be above 0")


SAMPLING = tuple(setting_names(SamplingSettings))


def setting_names_of(method: str) -> tuple[str, ...]:
    """Return the names of the settings that a method takes.

    Raises
    ------
    InputError
        An unknown method.
    """
    if method not in METHODS:
        raise InputError(f"method '{method}' is unknown; choose one of {', '.join(METHODS)}")
    if method in SAMPLING_METHODS:
        return (*SAMPLING, *setting_names(InferenceSettings))
    if method == "pnp":
        return tuple(setting_names(PnPSettings))
    return tuple(setting_names(ClassicalSettings)) if method in CLASSICAL_METHODS else ()


def check_settings(method: str, settings: Mapping[str, Any], where: str, unused: Sequence[str] = ()) -> None:
    """Check the settings of a method, by name; those that are `unused` here count as another method's.

    Raises
    ------
    InputError
        An unknown method or setting, one that only other methods take, or a bad value.
    """
    own = [name for name in setting_names_of(method) if name not in unused]
    every = {name for other in METHODS for name in setting_names_of(other)}
    if unknown := sorted(set(settings) - every):
        near = nearest(unknown[0], ("method", *own))
        raise InputError(f"{where}: unknown setting '{unknown[0]}'; the nearest known one is '{near}'")
    if idle := sorted(set(settings) - set(own)):
        raise InputError(f"{where}: method '{method}' does not use {', '.join(idle)}; leave it out")
    if method == "pnp":
        from_dict(PnPSettings, settings, where)
    elif method in SAMPLING_METHODS:
        from_dict(SamplingSettings, {name: settings[name] for name in settings if name in SAMPLING}, where)
        from_dict(InferenceSettings, {name: settings[name] for name in settings if name not in SAMPLING}, where)
    elif method in CLASSICAL_METHODS:
        from_dict(ClassicalSettings, settings, where)
