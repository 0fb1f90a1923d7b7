"""Scores of reconstructions against targets: fastMRI's metric functions, its numbers to the last digit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.data.scan import TARGETS
from mrihvae.errors import InputError
from mrihvae.io.checked_hdf5 import open_checked
from mrihvae.io.formats import list_files, list_names, names_in
from mrihvae.io.hdf5 import open_hdf5, read_dataset

METRICS = ("MSE", "NMSE", "PSNR", "SSIM")
WINDOW = 7  # pixels on a side of the SSIM window
Pair = tuple[Path, Path]


@dataclass(frozen=True)
class VolumeScores:
    """The scores of one volume.

    Attributes
    ----------
    file : name of the target's file
    acquisition : the target's attribute of that name, or "unknown"
    slices : number of slices
    values : metric name to value as fastMRI's function returns it; its type decides how the means round
    """

    file: str
    acquisition: str
    slices: int
    values: Mapping[str, Any]

    def scores(self) -> dict[str, float]:
        """Return the scores as plain numbers."""
        return {name: float(np.asarray(self.values[name]).item()) for name in METRICS}


@dataclass(frozen=True)
class Evaluation:
    """The scores of all volumes.

    Attributes
    ----------
    rows : of each volume, in the order in which fastMRI accumulates them (that of the target folder)
    """

    rows: tuple[VolumeScores, ...]

    def means(self) -> dict[str, float]:
        """Compute the mean of every metric over volumes; equals `fastmri.evaluate.evaluate(...).means()`."""
        return self._plain(self._metrics().means())

    def stddevs(self) -> dict[str, float]:
        """Compute the standard deviation (n - 1) of every metric over volumes; 0 for a single one."""
        if len(self.rows) < 2:
            return dict.fromkeys(METRICS, 0.0)
        return self._plain(self._metrics().stddevs())

    def acquisitions(self) -> list[str]:
        """List the acquisitions, sorted."""
        return sorted({row.acquisition for row in self.rows})

    def of(self, acquisition: str) -> Evaluation:
        """Return the evaluation of the volumes with this acquisition."""
        return Evaluation(tuple(row for row in self.rows if row.acquisition == acquisition))

    def _metrics(self) -> Any:
        from fastmri.evaluate import METRIC_FUNCS, Metrics

        metrics = Metrics(METRIC_FUNCS)
        with np.errstate(invalid="ignore"):  # a perfect prediction has an infinite PSNR
            for row in self.rows:
                for name, value in row.values.items():
                    metrics.metrics[name].push(value)
        return metrics

    @staticmethod
    def _plain(values: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(np.asarray(values[name]).item()) for name in METRICS}


def evaluate(
    target_path: Path | str,
    predictions_path: Path | str,
    challenge: str,
    acquisition: str | None = None,
    acceleration: float | None = None,
    progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter,
) -> Evaluation:
    """Compute NMSE, PSNR, SSIM and MSE per volume, on the center (W, W) of the target, like `fastmri.evaluate`.

    With target v and prediction u, over a whole volume,

        NMSE = |u - v|^2 / |v|^2,    PSNR = 10 log10(max(v)^2 / MSE) dB,    MSE = mean (u - v)^2.

    Parameters
    ----------
    target_path : fastMRI HDF5 file, or a folder of them
    predictions_path : file with dataset `reconstruction`, float (slice, h, w), or a folder with the targets' names
    challenge : "singlecoil" or "multicoil", the dataset that is the target
    acquisition : score only volumes whose target has this attribute
    acceleration : score only volumes with this attribute, in the target or else in the prediction
    progress : wraps the list of (target, prediction) paths that are scored

    Returns
    -------
    see `mrihvae.evaluation.Evaluation`

    Raises
    ------
    InputError
        A file missing, truncated, without its dataset, with NaN or of a shape that does not fit; an empty folder;
        a filter that matches no volume, or files without the attribute of the filter.

    Examples
    --------
    >>> from pathlib import Path
    >>> import h5py
    >>> import numpy as np
    >>> import mrihvae
    >>> target = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    >>> for name, dataset, images in (("t.h5", "reconstruction_rss", target), ("p.h5", "reconstruction", 0.9 * target)):
    ...     with h5py.File(name, "w") as file:
    ...         file[dataset] = images
    >>> scores = mrihvae.evaluate(Path("t.h5"), Path("p.h5"), "multicoil")
    >>> round(scores.means()["NMSE"], 4)
    0.01

    References
    ----------
    * Zbontar et al. 2018 (fastMRI), https://doi.org/10.48550/arXiv.1811.08839
    """
    target_path, predictions_path = Path(target_path), Path(predictions_path)
    if challenge not in TARGETS:
        raise InputError(f"challenge '{challenge}' is unknown; choose one of {', '.join(TARGETS)}")
    pairs = _pairs(target_path, predictions_path)
    if acquisition is not None:
        named = [(pair, _acquisition(pair[0])) for pair in pairs]
        pairs = [pair for pair, name in named if name == acquisition]
        if not pairs:
            there = ", ".join(sorted({name for _, name in named}))
            raise InputError(f"{target_path}: no volume has acquisition '{acquisition}'; there are: {there}")
    if acceleration is not None:
        accelerations = [(pair, _acceleration(*pair)) for pair in pairs]
        pairs = [pair for pair, value in accelerations if value == acceleration]
        if not pairs:
            there = ", ".join(f"{value:g}" for value in sorted({value for _, value in accelerations}))
            among = "" if acquisition is None else f" of acquisition '{acquisition}'"
            raise InputError(f"{target_path}: no volume{among} has acceleration {acceleration:g}; there are: {there}")
    for pair in pairs:
        _check_prediction(*pair)
    return Evaluation(tuple(_score(*pair, TARGETS[challenge]) for pair in progress(pairs)))


def score_volume(target: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Compute fastMRI's scores of one volume in memory, cropped as `mrihvae.evaluate` crops.

    Parameters
    ----------
    target : float (slice, h, w), h >= w >= 7
    prediction : float (slice, h', w'), h' and w' at least w

    Returns
    -------
    "MSE", "NMSE", "PSNR" (dB) and "SSIM"

    Examples
    --------
    >>> import numpy as np
    >>> from mrihvae.evaluation import score_volume
    >>> target = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    >>> round(score_volume(target, 0.9 * target)["NMSE"], 4)
    0.01
    """
    return {name: float(np.asarray(value).item()) for name, value in _values(target, prediction).items()}


def _values(target: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    """Call fastMRI's metric functions on the center (W, W) of the target."""
    from fastmri.data.transforms import center_crop
    from fastmri.evaluate import METRIC_FUNCS

    width = target.shape[-1]
    target, prediction = center_crop(target, (width, width)), center_crop(prediction, (width, width))
    with np.errstate(divide="ignore"):  # a perfect prediction has an infinite PSNR
        return {name: METRIC_FUNCS[name](target, prediction) for name in METRICS}


def _pairs(target_path: Path, predictions_path: Path) -> list[Pair]:
    """Pair targets with predictions by name (a single file with a single file), in fastMRI's order."""
    targets = list_files(target_path)
    list_files(predictions_path, hint="give a reconstruction file or a folder of them")  # there, and not empty
    if predictions_path.is_file():
        if len(targets) > 1:
            raise InputError(
                f"{predictions_path}: is one file for {len(targets)} targets; give the folder of predictions, or one "
                "target file"
            )
        return [(targets[0], predictions_path)]
    if target_path.is_dir():
        targets = [path for path in target_path.iterdir() if path in targets]  # unsorted as fastMRI: sums round alike
    return [(target, predictions_path / target.name) for target in targets]


def _check_prediction(target: Path, prediction: Path) -> None:
    if not prediction.is_file():
        raise InputError(
            f"{prediction}: file not found, but {target} needs a prediction; reconstruct it or filter it out (the "
            f"folder has {list_names(names_in(prediction.parent))})"
        )


def _acquisition(target: Path) -> str:
    value = _attributes(target).get("acquisition", "unknown")
    return value.decode() if isinstance(value, bytes) else str(value)


def _acceleration(target: Path, prediction: Path) -> float:
    value = _attributes(target).get("acceleration")
    if value is None:
        _check_prediction(target, prediction)
        value = _attributes(prediction).get("acceleration")
    if value is None:
        raise InputError(
            f"{target}: neither it nor its prediction has the acceleration (attribute 'acceleration'); "
            "do not filter by it"
        )
    try:
        return float(np.ravel(value)[0])
    except (ValueError, IndexError):
        raise InputError(f"{target}: its acceleration is {value!r}, not a number; correct the attribute") from None


def _attributes(path: Path) -> dict[str, Any]:
    with open_hdf5(path) as file:
        return dict(file.attrs.items())


def _score(target_path: Path, prediction_path: Path, key: str) -> VolumeScores:
    if (keys := _dataset_names(target_path)) and key not in keys:
        other = next((name for name, target in TARGETS.items() if target in keys), None)
        hint = f"give --challenge {other}" if other else "give fully sampled scans with their targets"
        raise InputError(f"{target_path}: has no dataset '{key}', the target to compare with; {hint}")
    target = _read_images(target_path, key)
    prediction = _read_images(prediction_path, "reconstruction")
    slices, height, width = target.shape
    if height < width or width < WINDOW:
        raise InputError(
            f"{target_path}: '{key}' has slices of {height} x {width}; fastMRI scores the center {width} x {width} "
            f"and needs H >= W >= {WINDOW}; store it in fastMRI's orientation or leave the file out"
        )
    if len(prediction) != slices or min(prediction.shape[1:]) < width:
        raise InputError(
            f"{prediction_path}: 'reconstruction' has shape {prediction.shape}; {target_path.name} needs {slices} "
            f"slices of at least {width} x {width}; reconstruct it from the same scan"
        )
    top = (height - width) // 2
    if not target[:, top : top + width].max() > 0:
        raise InputError(f"{target_path}: '{key}' is nowhere above 0, so no score is defined; check the file")
    return VolumeScores(target_path.name, _acquisition(target_path), slices, _values(target, prediction))


def _dataset_names(path: Path) -> set[str]:
    """List the datasets of an HDF5 file; none of a damaged one."""
    try:
        with open_checked(path) as file:
            return set(file)
    except Exception:  # whatever damage causes, of which who reads it says more
        return set()


def _read_images(path: Path, key: str) -> np.ndarray:
    images = read_dataset(path, key)
    if images.dtype.kind != "f" or images.ndim != 3 or len(images) < 1:
        raise InputError(
            f"{path}: '{key}' is {images.dtype} of shape {images.shape}; store float32 magnitudes (slices, h, w)"
        )
    return images
