"""Options of `mrihvae reconstruct`: which of them go together, and the method and the mask that they describe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mrihvae.cli.options import Reconstruct
from mrihvae.cli.options.common import AXES
from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.physics.sampling import GRID_TYPES, Undersampling
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import Method
from mrihvae.recon.settings import CLASSICAL_METHODS, METHODS, MODEL_METHODS, SAMPLING_METHODS, setting_names_of
from mrihvae.utils.config import from_dict

COIL_OPTIONS = {  # by the settings that they are
    "maps": "maps", "refine_maps": "refine_maps", "compress": "virtual_coils", "whiten": "whiten",
    "output": "combine_coils",
}  # fmt: skip
REFINEMENT = ("rule", "step", "anchor")  # of steps, of which there must be some
UNUSED = {  # settings that a method has, but not for its option
    "hybrid": {"iterations"},  # the option is of pnp
    "samples": {"iterations", "tv_blend"},
    "amortized": {"iterations", "views", "rounds", "tv_blend"},  # a single encoder pass
    "pnp": {"seed"},  # the option is of posterior samples
}
WITHOUT_CENTER = ("center", "radial", "spiral")  # patterns that sample the center by themselves
USUAL_ACCELERATION = 4.0


def check_options(arguments: Reconstruct) -> None:
    """Check that the method has a use for every option that is given.

    Raises
    ------
    InputError
        A value that cannot be, or an option that would be ignored.
    """
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if arguments.strength is not None and not arguments.strength > 0:
        raise InputError(f"--strength {arguments.strength}: must be above 0")
    _check_samples(arguments)
    method = arguments.method
    for name in sorted({name for other in METHODS for name in _options_of(other)}):
        if getattr(arguments, name) is not None and name not in _options_of(method):
            others = [other for other in METHODS if name in _options_of(other)]
            raise _ignored(name, f"--method {method}", f"it applies to {', '.join(others)}")
    if method not in MODEL_METHODS and arguments.device != "cpu":
        raise InputError(f"--device {arguments.device}: --method {method} computes on the CPU; leave it out")
    if method == "zero-filled" and (names := _given_coil_options(arguments)):
        raise _ignored(names[0], f"--method {method}", "it does not combine or compress coils")
    sampled = arguments.samples is not None or method == "samples"
    sweeps = arguments.sweeps
    if method == "amortized" and sweeps is not None and not sampled:
        raise _ignored("sweeps", f"--method {method}", "it refines nothing without --samples")
    if method in SAMPLING_METHODS and (sweeps == 0 if sweeps is not None else sampled or method == "amortized"):
        for name in REFINEMENT:
            if getattr(arguments, name) is not None:
                raise InputError(
                    f"{_option(name)}: only applies to refinement, and there is none; add --sweeps, or leave it out"
                )


def check_coil_options(arguments: Reconstruct, coils: Iterable[int | None]) -> None:
    """Raise InputError for multi-coil options if no file has several coils; `coils` is None where it is unknown."""
    if set(coils) != {1}:
        return
    for name in _given_coil_options(arguments):
        raise InputError(
            f"{_option(name)}: only applies to multi-coil scans, and INPUT has single-coil scans; leave it out"
        )


def read_method(arguments: Reconstruct, checkpoint: str) -> Method:
    """Return the method that options describe, with these weights if it needs any.

    Raises
    ------
    InputError
        A value that cannot be, or weights or a device that cannot be used.
    """
    coils = from_dict(CoilSettings, _given(arguments, COIL_OPTIONS), "coil settings")
    known = _options_of(arguments.method) & set(setting_names_of(arguments.method))
    settings = _given(arguments, {name: name for name in known})
    if (arguments.samples is not None or arguments.method == "samples") and "sweeps" in settings:
        settings["sample_sweeps"] = settings["sweeps"]
    return load_method(arguments.method, checkpoint, arguments.device, coils=coils, **settings)


def read_undersampling(arguments: Reconstruct) -> Undersampling | None:
    """Return the mask that options describe; None without --mask-type, where the file's own mask counts.

    Raises
    ------
    InputError
        An option that would be ignored.
    """
    pattern = arguments.mask_type
    if pattern is None:
        for name in ("acceleration", "center_fraction", "axis"):
            if getattr(arguments, name) is not None:
                raise InputError(f"{_option(name)}: needs --mask-type; add it, or leave this option out")
        return None
    if arguments.center_fraction is not None and pattern in WITHOUT_CENTER:
        raise _ignored("center_fraction", f"--mask-type {pattern}", "the pattern samples the center by itself")
    if arguments.axis is not None and pattern in GRID_TYPES:
        raise _ignored("axis", f"--mask-type {pattern}", "the pattern has no lines")
    acceleration = USUAL_ACCELERATION if arguments.acceleration is None else float(arguments.acceleration)
    fraction = 0.32 / max(acceleration, 1) if arguments.center_fraction is None else arguments.center_fraction
    acceleration = int(acceleration) if acceleration.is_integer() else acceleration
    return Undersampling(pattern, acceleration, fraction, AXES[arguments.axis or "W"])


def _check_samples(arguments: Reconstruct) -> None:
    """Check the options of posterior samples."""
    if arguments.samples is None:
        if arguments.keep_samples or arguments.temperature is not None:
            raise InputError("--keep-samples and --temperature: need --samples; add it, or leave them out")
        if arguments.seed is not None:
            raise InputError("--seed: only applies to posterior samples; add --samples, or leave it out")
        return
    if arguments.samples < 2:
        raise InputError(f"--samples {arguments.samples}: a standard deviation needs at least 2")
    if arguments.method not in SAMPLING_METHODS:
        raise InputError(
            f"--samples: {arguments.method} does not support posterior sampling; choose --method "
            f"{' or '.join(SAMPLING_METHODS)}"
        )
    if arguments.seed is not None and arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: must be at least 0")


def _options_of(method: str) -> set[str]:
    """Return which options that belong to some methods belong to this one."""
    options = set(setting_names_of(method)) & set(Reconstruct.__annotations__) - UNUSED.get(method, set())
    if method in CLASSICAL_METHODS or method == "zero-filled":
        return options
    return options | {"checkpoint", "precision"}


def _given_coil_options(arguments: Reconstruct) -> list[str]:
    """List the options of several coils that are given."""
    given = [name for name in COIL_OPTIONS.values() if getattr(arguments, name) is not None]
    return ["no-whiten" if name == "whiten" and not arguments.whiten else name for name in given]


def _given(arguments: Reconstruct, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings whose options are given."""
    given = {setting: getattr(arguments, option) for setting, option in options.items()}
    return {setting: value for setting, value in given.items() if value is not None}


def _ignored(name: str, what: str, why: str) -> InputError:
    """Return the error of an option that would be ignored."""
    return InputError(f"{_option(name)}: does not apply to {what} ({why}); leave it out")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
