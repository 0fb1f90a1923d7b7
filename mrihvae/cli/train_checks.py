"""What `mrihvae train` checks before it trains: that data, settings and model belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrihvae.datasets.lazy import LazySlices
from mrihvae.datasets.mixture import WeightedDatasets
from mrihvae.errors import InputError
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import load_card
from mrihvae.training.run import Run, TrainSettings
from mrihvae.utils.config import from_dict


def check_fit(mixture: WeightedDatasets, model: ModelSettings, training: TrainSettings) -> None:
    """Check that slices fit the model.

    Raises
    ------
    InputError
        Pictures for a model of scans, scans for one of real images, pictures of other channels or too large, or raw
        k-space for one of degraded images.
    """
    for dataset in mixture.datasets:
        shape = dataset.arrays[0].shape
        if model.degraded and dataset.raw:
            raise InputError(f"{dataset.path}: raw k-space is already noisy; degraded images are made from magnitudes")
        if dataset.pictures != model.real:
            wanted = "collections of pictures (.bin, idx3-ubyte)" if model.real else "scans or magnitude images"
            raise InputError(
                f"{dataset.path}: does not fit the model, which is for {wanted}; change the data or 'real'"
            )
        if model.real and shape[0] != model.channels:
            raise InputError(
                f"{dataset.path}: pictures of {shape[0]} channels; set the model's 'channels' to this number"
            )
        if model.real and any(size < have for wanted in training.shapes for size, have in zip(wanted, shape[1:])):
            raise InputError(f"{dataset.path}: pictures of {shape[1]} x {shape[2]} are larger than training 'shapes'")


def check_same_data(output: Path, data: list[dict[str, Any]]) -> None:
    """Check that a run is resumed with the data that it was started with, as the card of its weights describes them.

    Raises
    ------
    InputError
        Other data.
    """
    path = output / "weights.safetensors"
    earlier = load_card(path).get("data") if path.is_file() else None
    if not isinstance(earlier, list):
        return
    before, now = (", ".join(map(_name_data, sets)) for sets in (earlier, data))
    if before != now:
        raise InputError(
            f"{output}: its run was started with {before}, not {now}; give the same data with the same "
            "weights, or start another run with --weights"
        )


def _name_data(described: Mapping[str, Any]) -> str:
    """Name a data set, its size and its share."""
    return f"{described.get('path')} ({described.get('slices')} slices, share {described.get('share')})"


def check_same_settings(job: Run, settings: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Check that a resumed run has the settings of a file; those that options may change are left out.

    Raises
    ------
    InputError
        Another value of one of them.
    """
    for section, own in (("model", job.model.settings), ("training", job.settings), ("simulation", job.simulation)):
        values = settings.get(section, {})
        given = from_dict(type(own), {**dataclasses.asdict(own), **values}, f"{path}, {section}")
        for name in values.keys() - {"steps", "accumulate", "validate_every"}:
            before, now = getattr(own, name), getattr(given, name)
            if before != now:
                raise InputError(
                    f"{path}, {section}: '{name}' is {now}, but {before} in the resumed run, which keeps its settings; "
                    "set it back, or choose another --output"
                )


def describe(mixture: WeightedDatasets) -> list[dict[str, Any]]:
    """Describe data sets as the card of weights does."""
    return [
        {
            "path": "/".join(dataset.path.parts[-2:]),
            "slices": len(dataset.arrays),
            "kind": "raw k-space" if dataset.raw else "pictures" if dataset.pictures else "magnitude",
            "share": round(float(share), 4),
            **({"streamed": True} if isinstance(dataset.arrays, LazySlices) else {}),
        }
        for dataset, share in zip(mixture.datasets, mixture.shares)
    ]
