"""A report of reconstructions: one HTML file with scores, pictures of every slice and all settings, for any browser."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from mrihvae.evaluation.scores import Evaluation

FACTORS = (*range(1, 11), 15, 20, 30, 50, 100, 200, 500, 1000)  # by which errors and uncertainty may be magnified
COLOURS = {"error": "inferno", "uncertainty": "viridis"}  # not grey, so that nobody takes them for images
MEANINGS = {"error": "|reconstruction - target|", "uncertainty": "standard deviation"}
COLUMNS = ("NMSE", "PSNR", "SSIM")  # of the table, as the template heads them
ELSEWHERE = ("volumes", "overall", "acquisitions")  # of the JSON: these numbers are in the table of scores
PARTS = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Panel:
    """The pictures of one kind of image of a volume.

    Attributes
    ----------
    kind : "zero-filled", "reconstruction", "target", "error" or "uncertainty"
    title : what stands above them
    range : what the colours mean; empty where level and window say what black and white mean
    pictures : a data URL for each slice that is shown
    """

    kind: str
    title: str
    range: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class ReportVolume:
    """What the report shows of a volume.

    Attributes
    ----------
    file : name of its file
    acquisition : as the source file says; empty if it is not known
    slices : number of slices
    effective, seconds : effective acceleration, and seconds per slice, or None
    scores : fastMRI's metrics of the volume, or None
    by_slice : metric to its values, slice by slice; empty without a target
    size : (h, w) of the pictures
    shown : which slices have pictures
    panels : in the order in which they are shown
    white : value of the brightest pixel, white in the pictures
    window : fraction of it that is white at first
    notes : what is missing, and why
    """

    file: str
    acquisition: str
    slices: int
    effective: float | None
    seconds: float | None
    scores: Mapping[str, Any] | None
    by_slice: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    size: tuple[int, int] = (1, 1)
    shown: tuple[int, ...] = ()
    panels: tuple[Panel, ...] = ()
    white: float = 1.0
    window: float = 1.0
    notes: tuple[str, ...] = ()


def slice_scores(target: np.ndarray, prediction: np.ndarray) -> dict[str, list[float | None]]:
    """Compute PSNR and SSIM of each slice, with the volume's maximum as data range as `fastmri.evaluate` has it.

    Parameters
    ----------
    target, prediction : float (slice, h, w) with h >= w; the centre (w, w) counts

    Returns
    -------
    the mean of "SSIM" is the volume's; None stands for the infinite "PSNR" of a perfect slice
    """
    from fastmri.data.transforms import center_crop
    from fastmri.evaluate import psnr, ssim

    width = target.shape[-1]
    target, prediction = center_crop(target, (width, width)), center_crop(prediction, (width, width))
    pairs = [(target[k : k + 1], prediction[k : k + 1]) for k in range(len(target))]
    with np.errstate(divide="ignore"):
        return {
            name: [_finite(metric(*pair, target.max())) for pair in pairs]
            for name, metric in (("PSNR", psnr), ("SSIM", ssim))
        }


def panels_of(images: Mapping[str, np.ndarray], titles: Mapping[str, str], shown: Sequence[int]) -> dict[str, Any]:
    """Turn the images of a volume into pictures: zero-filled, reconstruction and target on one grey scale.

    Parameters
    ----------
    images : kind to magnitudes (slice, h, w); errors are computed if "reconstruction" and "target" are there
    titles : kind to title, where it is not the kind
    shown : the slices to take

    Returns
    -------
    `size`, `shown`, `panels`, `white` and `window` of a `ReportVolume`
    """
    images = dict(images)
    uncertainty = images.pop("uncertainty", None)
    white = max(float(image.max()) for image in images.values())
    white = white if white > 0 else 1.0
    bright = images.get("target", images["reconstruction"])
    kept = list(shown)
    panels = [Panel(kind, titles.get(kind, kind), "", _pictures(image[kept], white)) for kind, image in images.items()]
    maps = {} if uncertainty is None else {"uncertainty": uncertainty}
    if "target" in images:
        maps = {"error": np.abs(images["reconstruction"] - images["target"]), **maps}
    # one factor for both, so that they can be compared; nearly all pixels fit
    high = max((float(np.percentile(values, 99.5)) for values in maps.values()), default=0.0)
    factor = max((factor for factor in FACTORS if factor * high <= white), default=1)
    for kind, values in maps.items():
        told = f"{MEANINGS[kind]}: 0 to {white / factor:.3g}, {100 / factor:.3g} % of the brightest pixel"
        panels.append(Panel(kind, f"{kind} x {factor}", told, _pictures(values[kept], white / factor)))
    window = float(np.clip(np.percentile(bright, 99.8) / white, 0.05, 1))
    size = images["reconstruction"].shape[1:]
    return {"size": size, "shown": tuple(shown), "panels": tuple(panels), "white": white, "window": window}


def _pictures(images: np.ndarray, white: float) -> tuple[str, ...]:
    """Encode images (slice, h, w) in 8 bits from 0 to `white`, which clips what is above."""
    levels = np.rint(np.clip(images / white, 0, 1) * 255).astype(np.uint8)
    return tuple(_data_url(image) for image in levels)


def _data_url(image: np.ndarray) -> str:
    """Encode a grey picture, uint8 (h, w), as lossless WebP: 2 to 6 % smaller than PNG at 4 ms a picture."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "WEBP", lossless=True, quality=50, method=4)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def page(
    title: str,
    about: Sequence[str],
    volumes: Sequence[ReportVolume],
    means: Mapping[str, Mapping[str, float]],
    settings: Mapping[str, Any],
    raw: tuple[str, str],
) -> str:
    """Write the report.

    Parameters
    ----------
    title : its heading
    about : lines below
    volumes : all that are reported
    means : acquisition to the means of its scores; "" for all volumes
    settings : what to show of settings and provenance, nested as deep as it likes
    raw : name and text of the JSON that they are from

    Returns
    -------
    HTML that loads nothing, runs no script but its own, and takes every string from outside as text
    """
    style, script = ((PARTS / f"report_{name}").read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    template = string.Template((PARTS / "report_template.html").read_text(encoding="utf-8"))
    shown = [_facts(volume) for volume in volumes]
    return template.substitute(  # in one pass: what is filled in is not looked through again
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        title=html.escape(title),
        about="\n".join(f"<p>{html.escape(line)}</p>" for line in about),
        table=_table(volumes, means),
        filters="\n".join(_filter(f"colours-{kind}", name) for kind, name in COLOURS.items()),
        settings=_groups({key: value for key, value in settings.items() if key not in ELSEWHERE}),
        raw_name=html.escape(raw[0]),
        raw=html.escape(raw[1]),
        facts=json.dumps({"volumes": shown}, allow_nan=False).replace("<", r"\u003c"),
        pictures="\n".join(_data_elements(volumes)),
    )


def means_of(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Compute the means of all volumes ("") and of each acquisition, as `page` takes them."""
    if not evaluation.rows:
        return {}
    return {"": evaluation.means(), **{name: evaluation.of(name).means() for name in evaluation.acquisitions()}}


def _facts(volume: ReportVolume) -> dict[str, Any]:
    """Give what the page's script must know of a volume; the pictures are looked up when they are shown."""
    panels = [{"kind": panel.kind, "title": panel.title, "range": panel.range} for panel in volume.panels]
    same = ("file", "slices", "size", "shown", "white", "window", "notes")
    return {**{name: getattr(volume, name) for name in same}, "scores": dict(volume.by_slice), "panels": panels}


def _data_elements(volumes: Sequence[ReportVolume]) -> Iterable[str]:
    """Write each picture as an element of its own, which the browser keeps as text until it is shown."""
    for number, volume in enumerate(volumes):
        for panel in volume.panels:
            for k, picture in zip(volume.shown, panel.pictures):
                yield f'<script type="text/plain" id="picture-{number}-{k}-{panel.kind}">{picture}</script>'


def _table(volumes: Sequence[ReportVolume], means: Mapping[str, Mapping[str, float]]) -> str:
    """Write the rows of the table of scores, and of the means."""
    rows = []
    for number, volume in enumerate(volumes):
        link = f'<a href="#volume-{number}">{html.escape(volume.file)}</a>'
        name = f'<th scope="row" data-value="{html.escape(volume.file)}">{link}</th>'
        rows.append(name + _cells([volume], volume.acquisition, volume.scores))
    names = sorted({volume.acquisition for volume in volumes} - {""})
    totals = []
    for kind in [*names, None] if 1 < len(names) < len(volumes) else [None]:
        those = [volume for volume in volumes if kind in (None, volume.acquisition)]
        scored = sum(volume.scores is not None for volume in those)
        count = f"mean of {len(those)}" + (f", {scored} scored" if scored not in (0, len(those)) else "")
        totals.append(f'<th scope="row">{count}</th>' + _cells(those, kind or "", means.get(kind or "")))
    body, foot = ("\n".join(f"<tr>{row}</tr>" for row in part) for part in (rows, totals))
    return f"<tbody>\n{body}\n</tbody>\n<tfoot>\n{foot}\n</tfoot>"


def _cells(volumes: Sequence[ReportVolume], kind: str, scores: Mapping[str, Any] | None) -> str:
    """Fill in a row: numbers of one volume, or of several with means."""
    cells = [f'<td data-value="{html.escape(kind)}">{html.escape(kind)}</td>']
    effective, seconds = (
        float(np.mean(known)) if (known := [value for value in values if value is not None]) else None
        for values in ([volume.effective for volume in volumes], [volume.seconds for volume in volumes])
    )
    numbers = [(sum(volume.slices for volume in volumes), "d"), (effective, ".2f")]
    numbers += [(None if scores is None else float(np.asarray(scores[name]).item()), "#.4g") for name in COLUMNS]
    for value, form in [*numbers, (seconds, ".2f")]:
        text = "" if value is None else "∞" if math.isinf(value) else f"{value:{form}}"
        exact = "" if value is None else "Infinity" if math.isinf(value) else repr(value)
        cells.append(f'<td class="number" data-value="{exact}">{text}</td>')
    return "".join(cells)


def _groups(settings: Mapping[str, Any]) -> str:
    """Lay out settings: what is plain in one table, every group in one of its own."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    nested = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    return "\n".join(
        f"<section><h3>{html.escape(str(name))}</h3>{_value(group)}</section>"
        for name, group in {"general": plain, **nested}.items()
    )


def _value(value: Any) -> str:
    """Write a JSON value: tables in tables for objects, a line for lists of plain values."""
    if isinstance(value, Mapping) and value:
        rows = (
            f'<tr><th scope="row">{html.escape(str(key))}</th><td>{_value(v)}</td></tr>' for key, v in value.items()
        )
        return f"<table>{''.join(rows)}</table>"
    if isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        return "".join(f"<div>{_value(one)}</div>" for one in value)
    if isinstance(value, list) and value:
        return html.escape(", ".join(map(str, value)))
    if value is None or isinstance(value, Mapping | list):
        return '<span class="none">none</span>'
    return html.escape(str(value).lower() if isinstance(value, bool) else str(value))


def _filter(name: str, colours: str) -> str:
    """Write an SVG filter that colours grey pictures, from black to white, by a map of matplotlib's."""
    table = colormaps[colours](np.linspace(0, 1, 52))  # 5 grey values a step, linear between
    parts = (f'<feFunc{c} type="table" tableValues="{_listed(table[:, k])}"/>' for k, c in enumerate("RGB"))
    transfer = f"<feComponentTransfer>{''.join(parts)}</feComponentTransfer>"
    return f'<filter id="{name}" color-interpolation-filters="sRGB">{transfer}</filter>'


def _listed(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _hash(text: str) -> str:
    """Name an inline style or script in the page's policy, which forbids all others."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finite(value: Any) -> float | None:
    """Take a number for JSON, which has no infinity."""
    number = float(np.asarray(value).item())
    return number if math.isfinite(number) else None
