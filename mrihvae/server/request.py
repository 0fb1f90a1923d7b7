"""What a scanner may request of a reconstruction, by the name of a configuration, a text, or the user's parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mrihvae.errors import InputError, nearest
from mrihvae.recon.settings import METHODS

PREFIX = "mrihvae_"  # of names among a header's user parameters, which belong to all sorts of programs
PIXELS = ("float", "short")
MOST_SAMPLES = 256
QUOTED = 40  # letters of a client's that errors quote
YES, NO = ("true", "1", "1.0", "yes", "on"), ("false", "0", "0.0", "no", "off", "")


@dataclass(frozen=True)
class Request:
    """How a scan is to be reconstructed.

    Attributes
    ----------
    method : one of `mrihvae.recon.settings.METHODS`, or empty for the server's own
    uncertainty : whether a second series shows the standard deviation of posterior samples
    samples : number of posterior samples for it
    pixels : "float", the values themselves as float32, or "short", int16 as scanners store them, with one factor for
        all images of a series
    """

    method: str = ""
    uncertainty: bool = False
    samples: int = 8
    pixels: str = "float"

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method or METHODS[0], METHODS), ("pixels", self.pixels, PIXELS)):
            if value not in known:
                choice = ", ".join(known)
                raise InputError(f"parameter {name} '{_quoted(value)}': is unknown; choose one of {choice}")
        if not 2 <= self.samples <= MOST_SAMPLES:
            raise InputError(f"parameter samples {self.samples}: must be 2 to {MOST_SAMPLES}")

    def updated(self, parameters: Mapping[str, Any]) -> Request:
        """Return the request with parameters of known names, with or without `PREFIX`; others are for other programs.

        Raises
        ------
        InputError
            A value that is not of its kind, or a name with `PREFIX` that none has.
        """
        values: dict[str, Any] = {}
        known = {field.name: field.default for field in fields(self)}
        for name, value in parameters.items():
            key = name.removeprefix(PREFIX)
            if key in known:
                values[key] = _read(name, value, known[key])
            elif key != name:
                near = nearest(key[:QUOTED], known)
                raise InputError(f"parameter {_quoted(name)}: is unknown; the nearest known one is '{PREFIX}{near}'")
        return replace(self, **values)

    def from_text(self, text: str) -> Request:
        """Return the request with the parameters of a configuration or a text: JSON, on its own or below "parameters".

        Any other text is the name of a configuration: the name of a method selects it, others are ignored.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            name = text.strip().removesuffix(".xml")
            return replace(self, method=name) if name in METHODS else self
        if not isinstance(found, dict):
            return self
        inner = found.get("parameters")
        return self.updated(found).updated(inner) if isinstance(inner, dict) else self.updated(found)

    def from_header(self, header: Mapping[str, str]) -> Request:
        """Return the request with those of the user's parameters in a header whose names begin with `PREFIX`."""
        return self.updated({name: value for name, value in header.items() if name.startswith(PREFIX)})


def _quoted(text: str) -> str:
    """Shorten what an error quotes; half a character, which JSON can hold, cannot be written."""
    return text[:QUOTED].encode(errors="replace").decode()


def _read(name: str, value: Any, usual: object) -> Any:
    """Read a value that may come as text, to the kind of its default."""
    text = str(value).strip()
    if isinstance(usual, bool):
        if text.lower() not in (*YES, *NO):
            raise InputError(f"parameter {name} '{_quoted(text)}': must be true or false")
        return text.lower() in YES
    if isinstance(usual, int):
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not number.is_integer():
            raise InputError(f"parameter {name} '{_quoted(text)}': must be a whole number")
        return int(number)
    return text
