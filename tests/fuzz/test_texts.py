"""Whatever a text says, its parser gives a result or one clear error."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("ismrmrd")

from hypothesis import example, given, settings
from hypothesis import strategies as some

from mrihvae.cli.common import finished_before
from mrihvae.cli.train import _read_settings
from mrihvae.errors import InputError
from mrihvae.inference.settings import InferenceSettings
from mrihvae.io.bart import read_cfl
from mrihvae.io.mrd.header import parse_header
from mrihvae.io.npy import read_numpy
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import load_card
from mrihvae.pnp.settings import PnPSettings
from mrihvae.protocols.evaluation import read_protocol
from mrihvae.protocols.training import read_training_protocol
from mrihvae.server.request import Request
from mrihvae.simulation.settings import ScannerSettings
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import TrainSettings
from mrihvae.utils.config import from_dict, setting_names
from tests.support import mrd
from tests.support.files import PROTOCOL

REPEATABLE = settings(max_examples=60, deadline=None, derandomize=True, database=None)
NUMBERS = some.one_of(some.integers(), some.floats(), some.sampled_from([2**31, 2**63, -(2**64), 10**400]))
TEXTS = some.one_of(some.text(max_size=20), some.sampled_from(["nan", "1e400", "..", "a/b", "\x1b[2J", "1" * 5000]))
LEAVES = some.one_of(some.none(), some.booleans(), NUMBERS, TEXTS)
JSON = some.recursive(
    LEAVES,
    lambda inner: some.one_of(some.lists(inner, max_size=4), some.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
DEEP = "[" * 100_000
NESTED = json.dumps({"model": {"layers": json.loads("[" * 480 + "]" * 480)}})
SECTIONS: dict[str, type[Any]] = {"model": ModelSettings, "training": TrainSettings, "simulation": SimulationSettings}


def named(cls: type[Any]) -> some.SearchStrategy[dict[str, Any]]:
    """Make up values for settings of known names."""
    return some.dictionaries(some.sampled_from(sorted(setting_names(cls))), JSON, max_size=3)


def refuses_or_reads(read: Callable[[], object]) -> None:
    """Run a parser; its error must be one line."""
    try:
        read()
    except InputError as error:
        assert str(error) and "\n" not in str(error)


def read_text(read: Callable[[Path], object], name: str, content: str) -> None:
    """Run a parser on a file of this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        refuses_or_reads(lambda: read(path))


@pytest.mark.parametrize("cls", [*SECTIONS.values(), InferenceSettings, PnPSettings, ScannerSettings])
def test_settings(cls: type[Any]) -> None:
    @REPEATABLE
    @given(named(cls))
    def check(values: dict[str, Any]) -> None:
        refuses_or_reads(lambda: from_dict(cls, values, "settings"))

    check()


@REPEATABLE
@given(some.one_of(JSON, some.fixed_dictionaries({}, optional={name: named(cls) for name, cls in SECTIONS.items()})))
def test_settings_in_json(content: Any) -> None:
    read_text(_read_sections, "settings.json", json.dumps(content))


def _read_sections(path: Path) -> None:
    for name, values in _read_settings(path).items():
        from_dict(SECTIONS[name], values, str(path))


@REPEATABLE
@given(some.one_of(JSON.map(json.dumps), TEXTS))
@example(DEEP)
@example(NESTED)
@example('{"a":' * 100_000)
@example("9" * 5000)
@example('{"volumes": [{"file": []}]}')
def test_other_json(content: str) -> None:
    read_text(_read_sections, "settings.json", content)
    read_text(lambda path: load_card(path.with_suffix(".safetensors")), "w.json", content)
    read_text(lambda path: read_numpy(path.with_suffix(".npy")), "scan.json", content)
    read_text(lambda path: finished_before(path, {"method": "tv"}, ("method",), "volumes"), "reconstruct.json", content)
    refuses_or_reads(lambda: Request().from_text(content))


LINES = some.sampled_from([*PROTOCOL.splitlines(), "[data]", "[training]", "kind = 'training'", "mask = 3", "[[data]]"])
ASSIGNMENTS = some.tuples(some.sampled_from(["challenge", "type", "acceleration", "data", "a.b", "metrics"]), LEAVES)


@REPEATABLE
@given(some.lists(some.one_of(LINES, ASSIGNMENTS.map(lambda pair: f"{pair[0]} = {json.dumps(pair[1])}"), TEXTS)))
@example(["a = " + "[" * 100_000])
@example(["[" + "a." * 20_000 + "a]"])
@example(["a = " + "9" * 5000])
def test_protocols(lines: list[str]) -> None:
    for content in ("\n".join(lines), PROTOCOL + "\n".join(lines)):
        read_text(read_protocol, "protocol.toml", content)
        read_text(read_training_protocol, "protocol.toml", content)


@REPEATABLE
@given(some.lists(some.one_of(some.integers(-3, 70).map(str), TEXTS), max_size=18), some.integers(0, 900))
@example(["2147483648", "2147483648"], 8)
@example(["-1", "-24"], 192)
def test_headers_of_bart(words: list[str], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.hdr"
        header = f"# Dimensions\n{' '.join(words)}\n"
        path.write_text(header, encoding="utf-8", errors="surrogatepass")
        path.with_suffix(".cfl").write_bytes(b"\0" * size)
        refuses_or_reads(lambda: read_cfl(path))


HEADER = mrd.cartesian_xml((2, 2, 16, 12))
VALUES = sorted({found for part in HEADER.split("<") for found in [part.partition(">")[2]] if found.strip()})


@REPEATABLE
@given(some.sampled_from(VALUES), some.one_of(NUMBERS.map(str), TEXTS))
def test_values_of_mrd_headers(old: str, new: str) -> None:
    refuses_or_reads(lambda: parse_header(HEADER.replace(f">{old}<", f">{new}<", 1)))
    refuses_or_reads(lambda: parse_header(new))


@REPEATABLE
@given(some.integers(0, len(HEADER)), some.integers(0, len(HEADER)), some.text(max_size=8))
@example(0, len(HEADER), "<a>" * 20_000)
def test_damaged_mrd_headers(start: int, end: int, piece: str) -> None:
    refuses_or_reads(lambda: parse_header(HEADER[:start] + piece + HEADER[end:]))
