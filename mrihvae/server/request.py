"""What a scanner may request of a reconstruction, by the name of a configuration, a text, or the user's parameters."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mrihvae.errors import InputError, nearest
from mrihvae.recon.settings import METHODS
from mrihvae.utils.notices import warn

PREFIX = "mrihvae_"  # names of parameters may begin with it
PIXELS = ("float", "short")
PIXELS_ON_REQUEST = (*PIXELS, "complex")
STORED = "short"  # pixels that scanners store, and converters to DICOM take
MOST_SAMPLES = 256
QUOTED = 40  # letters of a client's that messages quote
YES, NO = ("true", "1", "1.0", "yes", "on"), ("false", "0", "0.0", "no", "off", "")
CONFIGURATIONS = ("config", "customconfig")  # parameters that name a configuration; a later one counts more
DENOISING = ("denoise", "restore")  # methods and configurations that concern images, not k-space
OWN = ("", "default", "openrecon", "null")  # configurations that choose nothing, beside those that begin with our name
BOOKKEEPING = ("version", "parameters", "sendoriginal")  # of OpenRecon and the reference server, in JSON
MOST_WARNINGS = 8  # of unknown parameters
MOST_COMPARED = 400  # parameters of a header that are compared with known names
NEAR = 0.8  # similarity from which the name of another program's parameter counts as a mistyped one


@dataclass(frozen=True)
class Request:
    """How a scan is to be reconstructed.

    Attributes
    ----------
    method : one of `mrihvae.recon.settings.METHODS`, or empty for the server's own
    uncertainty : whether a further series shows the standard deviation of posterior samples
    samples : number of posterior samples for it
    pixels : "float", the values themselves as float32; "short", int16 as scanners store them, with one factor for all
        images of a series; or "complex", complex64
    zerofilled : whether a further series shows the zero-filled images
    denoise : whether images that the client sends are denoised, not only sent back
    """

    method: str = ""
    uncertainty: bool = False
    samples: int = 8
    pixels: str = "float"
    zerofilled: bool = False
    denoise: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method or METHODS[0], METHODS),
            ("pixels", self.pixels, PIXELS_ON_REQUEST),
        ):
            if value not in known:
                choice = ", ".join(known)
                raise InputError(f"parameter {name} '{_quoted(value)}': is unknown; choose one of {choice}")
        if not 2 <= self.samples <= MOST_SAMPLES:
            raise InputError(f"parameter samples {self.samples}: must be 2 to {MOST_SAMPLES}")

    def updated(self, parameters: Mapping[str, Any]) -> Request:
        """Return the request with parameters of known names; warn of unknown ones, with the nearest known name.

        Names may have `PREFIX`, and other capitals. A parameter of a configuration counts less than one of its own.

        Raises
        ------
        InputError
            A value of a known parameter that is not of its kind, or out of its range.
        """
        values: dict[str, Any] = {}
        unknown = []
        for name, value in sorted(parameters.items(), key=_rank):
            if _plain(name) in KNOWN:
                values |= _values(name, value)
            elif _plain(name) not in BOOKKEEPING:
                unknown.append(name)
        for name in unknown[:MOST_WARNINGS]:
            warn(_unknown(name))
        if len(unknown) > MOST_WARNINGS:
            warn(f"{len(unknown) - MOST_WARNINGS} more parameters are unknown, and were ignored")
        return replace(self, **values)

    def from_text(self, text: str) -> Request:
        """Return the request with the parameters of a configuration or a text: JSON, on its own or below "parameters".

        Any other text is the name of a configuration: that of a method selects it. Warn of others.

        Raises
        ------
        InputError
            As `updated` does.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            return replace(self, **_configuration(text))
        inner = found.get("parameters")
        if isinstance(inner, dict):
            return self.updated(found).updated(inner)
        if inner is not None:
            warn(f"\"parameters\" of the JSON '{_quoted(text)}' are not an object; they were ignored")
        return self.updated(found)

    def from_header(self, header: Mapping[str, str]) -> Request:
        """Return the request with the user's parameters in a header, which belong to other programs, too.

        Without `PREFIX` only a known name counts, and only with a value of its kind. Warn of others, and of names that
        are nearly known ones.

        Raises
        ------
        InputError
            A value out of its range, or with `PREFIX` one that is not of its kind.
        """
        values: dict[str, Any] = {}
        own = {name: value for name, value in header.items() if name.lower().startswith(PREFIX)}
        others = sorted(((name, value) for name, value in header.items() if name not in own), key=_rank)
        for name, value in others[-MOST_COMPARED:]:
            if _plain(name) in KNOWN:
                try:
                    values |= _values(name, value)
                except InputError as error:
                    warn(f"{error}; it was ignored, because it may belong to another program")
            elif difflib.get_close_matches(_plain(name), KNOWN, 1, NEAR):
                warn(_unknown(name))
        return replace(self, **values).updated(own)


KNOWN = (*(field.name for field in fields(Request)), *CONFIGURATIONS)
_PROGRAM = PREFIX.rstrip("_")
_METHODS = {spelling: method for method in METHODS for spelling in (method, method.replace("-", ""))}


def _plain(name: str) -> str:
    """Return a parameter's name as it is compared: small letters and digits alone, without prefix."""
    letters = "".join(letter for letter in name[: 2 * QUOTED].lower() if letter.isalnum())
    return letters.removeprefix(_PROGRAM)


def _rank(parameter: tuple[str, Any]) -> tuple[int, int]:
    """Return which parameters count less than others: configurations first, then names that are not written exactly."""
    name, key = parameter[0], _plain(parameter[0])
    if key not in KNOWN:
        return 0, 0
    if key in CONFIGURATIONS:
        return 1, CONFIGURATIONS.index(key)
    return 2, int(name.removeprefix(PREFIX) == key)


def _unknown(name: str) -> str:
    """Return the warning of a parameter that is not known."""
    near = nearest(_plain(name)[:QUOTED], KNOWN[:-1])
    prefix = PREFIX if name.lower().startswith(PREFIX) else ""
    return f"parameter {_quoted(name)}: is unknown; the nearest known one is '{prefix}{near}'. It was ignored"


def _quoted(text: str) -> str:
    """Shorten what a message quotes; half a character, which JSON can hold, cannot be written."""
    line = " ".join(text[:QUOTED].encode(errors="replace").decode().split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _values(name: str, value: Any) -> dict[str, Any]:
    """Read a parameter of a known name: values of fields of `Request`."""
    key = _plain(name)
    if key in CONFIGURATIONS:
        return _configuration("" if value is None else str(value))
    text = str(value).strip()
    choice = text.lower()
    if key == "method":
        if choice in DENOISING:
            return {"denoise": True}
        return {} if choice == "default" else {"method": _METHODS.get(choice, text)}
    if key == "pixels":
        return {"pixels": choice if choice in PIXELS_ON_REQUEST else text}
    return {key: _read(name, text, getattr(Request, key))}


def _configuration(name: str) -> dict[str, Any]:
    """Return what a configuration's name chooses; warn of one that chooses nothing."""
    choice = name.strip().lower().removesuffix(".xml")
    if choice in _METHODS:
        return {"method": _METHODS[choice]}
    if choice in DENOISING:
        return {"denoise": True}
    if choice not in OWN and not choice.startswith(_PROGRAM):
        warn(f"configuration or text '{_quoted(name)}': is neither JSON nor the name of a method; it was ignored")
    return {}


def _read(name: str, text: str, usual: object) -> bool | int:
    """Read a value, which may come as text, to the kind of its default."""
    if isinstance(usual, bool):
        if text.lower() not in (*YES, *NO):
            raise InputError(f"parameter {_quoted(name)} '{_quoted(text)}': must be true or false")
        return text.lower() in YES
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise InputError(f"parameter {_quoted(name)} '{_quoted(text)}': must be a whole number")
    return int(number)
