"""The weights that come with the package: their names, and where they lie."""

from __future__ import annotations

from pathlib import Path

from mrihvae.errors import InputError

SHIPPED = Path(__file__).parents[1] / "checkpoints"
CALIBRATION = ".calibration.json"  # after the name of weights: what belongs to their uncertainty


def find_weights(name_or_path: str) -> Path:
    """Return the path of weights by shipped name or by path.

    Raises
    ------
    InputError
        Neither a shipped name nor a file.
    """
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    if shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".safetensors":
        return path
    names = ", ".join(card.stem for card in shipped_cards()) or "none"
    raise InputError(f"{name_or_path}: neither shipped weights ({names}) nor a .safetensors file; give one of them")


def shipped_cards() -> list[Path]:
    """List the cards of the shipped weights, one for each."""
    return sorted(file for file in SHIPPED.glob("*.json") if not file.name.endswith(CALIBRATION))


def weights_for(coils: int) -> str:
    """Return the name of the shipped weights for scans of one coil, or of several."""
    return "multicoil" if coils > 1 else "default"
