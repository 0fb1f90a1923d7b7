"""The methods of the benchmark, ours and the peers', behind one call: an undersampled scan in, a volume out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import HERE
from benchmarks.common.protocol import label
from benchmarks.peers import bart, pocs, unet
from mrihvae.data.scan import Scan, delivered_shape, encoded_lines
from mrihvae.errors import InputError
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_card, load_model
from mrihvae.physics.fourier import center_crop
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon import classical
from mrihvae.recon.catalog import CALIBRATED, make_method
from mrihvae.recon.methods import Method
from mrihvae.recon.settings import SAMPLING_METHODS
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.utils.config import as_dict
from mrihvae.utils.precision import is_lower

TUNED = HERE / "results" / "tune_classical.json"
SAMPLES = 8
UNCERTAINTY_SAMPLES = 16
Solve = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Contestant:
    """One method, ready to run.

    Attributes
    ----------
    name : one of `protocol.METHODS`
    run : from a scan and the mask of what is known, bool (W,) or (H, W), to float32 (slice, h, w)
    made_by : weights and settings; results with another one are out of date
    foreign : whether a network was trained for another mask than the one it gets
    """

    name: str
    run: Callable[[Scan, np.ndarray], np.ndarray]
    made_by: str
    foreign: bool = False


@dataclass(frozen=True)
class Ours:
    """Our weights and how they are used."""

    model: HVAE
    fingerprint: str
    steps: int
    inference: InferenceSettings = field(default_factory=InferenceSettings)

    @classmethod
    def load(cls, checkpoint: str) -> Ours:
        """Load weights by name or path, with the temperature and the spread that their card tells."""
        path = find_weights(checkpoint)
        card = load_card(path)
        inference = InferenceSettings(**{name: float(card.get(name, 1.0)) for name in CALIBRATED})
        return cls(load_model(checkpoint), fingerprint(path), card.get("counters", {}).get("step", 0), inference)


class Contest:
    """Everything that methods need: our weights, peers' strengths and networks.

    Parameters
    ----------
    ours : our weights
    strengths : `best` of the results of `benchmarks/singlecoil/tune_classical.py`
    networks : fastMRI's U-Nets by the mask that they were trained for, such as "random 4x"
    """

    def __init__(self, ours: Ours, strengths: list[dict[str, Any]], networks: Mapping[str, unet.Network]) -> None:
        self.ours, self.strengths, self.networks = ours, strengths, networks

    def missing(self, name: str) -> str | None:
        """Say why a method cannot take part, or None if it can."""
        if name.startswith("bart-") and bart.version() is None:
            return f"{name}: left out, since bart is not installed (apt-get install bart)"
        if name == "unet" and not self.networks:
            return "unet: left out, since no weights are given (--unet random:4=FILE)"
        return None

    @staticmethod
    def takes(name: str, pattern: Undersampling) -> bool:
        """Say whether a method is made for a pattern: POCS for partial Fourier alone."""
        return name != "pocs" or pattern.mask_type == "partial_fourier"

    def contestant(self, name: str, pattern: Undersampling, kind: str) -> Contestant:
        """Prepare a method for a pattern and a kind of scans, "raw" or "simulated"."""
        if name == "zero-filled":
            return Contestant(name, _packaged(make_method(name)), name)
        if name in SAMPLING_METHODS:
            return self._ours(name)
        if name == "pocs":
            iterations = pocs.ITERATIONS[kind]
            return Contestant(name, _pocs(iterations), f"iterations {iterations}")
        if name == "unet":
            return self._unet(pattern)
        strength = strength_for(self.strengths, name, pattern.acceleration, kind)
        if name.startswith("bart-"):
            return Contestant(
                name, _bart(name, strength), f"bart {bart.version()} pics {' '.join(bart.arguments(name, strength))}"
            )
        iterations = classical.ITERATIONS[name]
        return Contestant(
            name,
            _packaged(make_method(name, strength=strength)),
            f"sigpy, {iterations} iterations, strength {strength}",
        )

    def uncertainty(self) -> Contestant:
        """Prepare what `mrihvae reconstruct --samples` does: posterior samples and their deviation; for its seconds."""
        method = make_method("samples", self.ours.model, self.ours.inference, UNCERTAINTY_SAMPLES)
        return Contestant("uncertainty", lambda scan, mask: sample_volume(scan, mask, method).std, "")

    def _ours(self, name: str) -> Contestant:
        inference = self.ours.inference
        lower = is_lower(self.ours.model.start.device, inference.precision)
        settings = {**as_dict(inference), "precision": "bfloat16" if lower else "float32"}
        if name == "amortized":
            settings = {key: settings[key] for key in ("combine", "precision")}
        elif name == "samples":
            settings = {**settings, "sweeps": 0, "samples": SAMPLES, "mean": "complex"}
        else:
            del settings["temperature"]
        settings.pop("spread", None)  # of no account for reconstructions
        told = ", ".join(f"{key} {value}" for key, value in settings.items())
        method = make_method(name, self.ours.model, self.ours.inference, SAMPLES)
        return Contestant(name, _packaged(method), f"weights {self.ours.fingerprint}" + (f", {told}" if told else ""))

    def _unet(self, pattern: Undersampling) -> Contestant:
        own = label(replace(pattern, axis=-1))  # a scan is turned if its lines differ along H
        name = next((key for key in (own, "random 4x") if key in self.networks), next(iter(self.networks)))
        network = self.networks[name]
        foreign = name != own or network.settings.center_fraction != pattern.center_fraction

        def run(scan: Scan, mask: np.ndarray) -> np.ndarray:
            return slicewise(scan, mask, lambda kspace, known: unet.reconstruct(network, kspace, known))

        return Contestant("unet", run, f"weights {network.fingerprint} of {name}", foreign=foreign)


def slicewise(scan: Scan, mask: np.ndarray, solve: Solve) -> np.ndarray:
    """Reconstruct a single-coil scan slice by slice as `mrihvae.recon.volumes.reconstruct_volume` does, with other
    solvers.

    Parameters
    ----------
    mask : bool (W,) or (H, W), what was measured
    solve : from k-space, complex (H, W), 0 where not measured, and what is known, bool (H, W), to an image
    """
    if scan.kspace.ndim != 3:
        raise InputError(f"{scan.name}: has several coils; the benchmark's peers take one")
    known = np.broadcast_to(mask | ~encoded_lines(scan), scan.kspace.shape[1:])
    images = np.stack([np.abs(solve(np.where(mask, kspace, 0), known)) for kspace in scan.kspace])
    return center_crop(torch.from_numpy(images.astype(np.float32)), delivered_shape(scan)).contiguous().numpy()


def read_strengths(path: Path) -> list[dict[str, Any]]:
    """Read the best strengths from the results of `benchmarks/singlecoil/tune_classical.py`.

    Raises
    ------
    InputError
        Not there, or not such results.
    """
    try:
        best: list[dict[str, Any]] = json.loads(path.read_text())["best"]
        for row in best:
            float(row["strength"]), float(row["acceleration"]), str(row["method"]), str(row["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no results of tuning ({type(error).__name__}: {error}); run "
            "benchmarks/singlecoil/tune_classical.py"
        ) from error
    return best


def strength_for(best: list[dict[str, Any]], method: str, acceleration: float, kind: str) -> float:
    """Give the strength tuned at the nearest acceleration, on scans of the same kind where there were any."""
    rows = [row for row in best if row["method"] == method]
    rows = [row for row in rows if row["kind"] == kind] or rows
    if not rows:
        raise InputError(
            f"{method}: has no tuned strength; run benchmarks/singlecoil/tune_classical.py, or leave it out"
        )
    nearest = min(rows, key=lambda row: abs(math.log(float(row["acceleration"]) / acceleration)))
    return float(nearest["strength"])


def _packaged(method: Method) -> Callable[[Scan, np.ndarray], np.ndarray]:
    return lambda scan, mask: reconstruct_volume(scan, mask, method)


def _pocs(iterations: int) -> Callable[[Scan, np.ndarray], np.ndarray]:
    def solve(kspace: np.ndarray, known: np.ndarray) -> np.ndarray:
        arrays = torch.from_numpy(kspace), torch.from_numpy(known.copy())
        image: np.ndarray = pocs.reconstruct(*arrays, iterations).numpy()
        return image

    return lambda scan, mask: slicewise(scan, mask, solve)


def _bart(name: str, strength: float) -> Callable[[Scan, np.ndarray], np.ndarray]:
    return lambda scan, mask: slicewise(scan, mask, lambda y, known: bart.reconstruct(y, known, name, strength))
