"""What a scan asks for: names, kinds, where it may be written, and what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mrihvae.errors import InputError
from mrihvae.recon.settings import METHODS
from mrihvae.server.request import MOST_SAMPLES, MOST_WARNINGS, Request
from mrihvae.utils.notices import collect_notices

ALL = Request("sense", True, 12, "short")


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": "sense", "uncertainty": True, "samples": 12, "pixels": "short"},
        {"mrihvae_method": "sense", "mrihvae_uncertainty": 1, "mrihvae_samples": 12.0, "mrihvae_pixels": "short"},
        {"method": " sense ", "uncertainty": "TRUE", "samples": "12", "pixels": "short"},
        {"method": "sense", "uncertainty": "yes", "samples": "12.0", "pixels": "short", "Samples": 3, "else": None},
        {"METHOD": "Sense", "Uncertainty": "1", "mrihvaesamples": "12", "MRIHVAE_Pixels": "SHORT"},
        {"config": "sense", "uncertainty": "True", "samples": "12", "pixels": "short", "customconfig": ""},
        {"config": "tv", "method": "sense", "uncertainty": "on", "samples": 12, "pixels": "short"},
        {"config": "tv", "customconfig": "sense.xml", "uncertainty": 1, "samples": 12, "pixels": "short"},
    ],
)
def test_parameters(parameters: dict[str, Any]) -> None:
    assert Request().updated(parameters) == ALL
    assert Request().from_text(json.dumps(parameters)) == ALL
    assert Request().from_text(json.dumps({"version": "1.0", "parameters": parameters})) == ALL
    assert ALL.updated({}) == ALL and ALL.from_text("{}") == ALL


@pytest.mark.parametrize("value", [False, "false", 0, "0", "0.0", "No", "off", ""])
def test_what_is_false(value: object) -> None:
    assert not Request(uncertainty=True).updated({"uncertainty": value}).uncertainty


def test_inner_parameters_count_more() -> None:
    assert Request().from_text('{"method": "tv", "samples": 3, "parameters": {"method": "sense"}}') == Request(
        "sense", samples=3
    )
    assert Request().from_text('{"method": "tv", "parameters": ["method"]}') == Request("tv")


@pytest.mark.parametrize("name", METHODS)
def test_name_of_a_configuration(name: str) -> None:
    for text in (name, f" {name}.xml\n", name.title(), name.replace("-", ""), json.dumps({"config": name})):
        assert Request().from_text(text) == Request(name)


@pytest.mark.parametrize("text", ["denoise", "restore.xml", '{"method": "denoise"}', '{"denoise": "true"}'])
def test_denoising_leaves_the_method_of_lines(text: str) -> None:
    assert Request("sense").from_text(text) == Request("sense", denoise=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "default.xml",
        "mrihvae_recon",
        "openrecon",
        "<configuration/>",
        "[1, 2]",
        "5",
        "null",
        '"sense"',
        "{",
        "[" * 100000,
        "9" * 5000,
    ],
)
def test_texts_that_say_nothing(text: str) -> None:
    assert ALL.from_text(text) == ALL


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("simplefft", True),
        ("{'method': 'sense'}", True),
        ('{"parameters": ["method"]}', True),
        ("default.xml", False),
        ("mrihvae_recon", False),
        ('{"version": "1.0", "parameters": {"config": "default", "customconfig": "", "sendOriginal": "false"}}', False),
    ],
)
def test_texts_without_use_are_warned_of(text: str, warned: bool) -> None:
    with collect_notices() as notices:
        assert ALL.from_text(text) == ALL
    assert [notice.endswith("ignored") for notice in notices] == [True] * warned


def test_header_gives_known_names_with_and_without_prefix() -> None:
    header = {"method": "tv", "samples": "no", "mrihvae_samples": "4", "Zerofilled": "1", "config": "default"}
    with collect_notices() as notices:
        assert Request().from_header(header) == Request("tv", samples=4, zerofilled=True)
    assert notices == [
        "parameter samples 'no': must be a whole number; it was ignored, because it may belong to another program"
    ]


def test_header_of_other_programs_is_left_to_them() -> None:
    siemens = ("MaxwellCoefficient_0", "EchoSpacing", "SliceThickness", "BaseResolution", "tReadOut", "patientID")
    header = {**{f"{name}_{k}": str(k) for name in siemens for k in range(20)}, "sample": "4", "mrihvae_bogus": "1"}
    with collect_notices() as notices:
        assert Request().from_header(header) == Request()
    assert [notice.partition(";")[0] for notice in notices] == [
        "parameter sample: is unknown",
        "parameter mrihvae_bogus: is unknown",
    ]


def test_header_with_values_out_of_their_range() -> None:
    for header in ({"mrihvae_samples": "many"}, {"samples": "1"}, {"method": "magic"}):
        with pytest.raises(InputError, match="^parameter"):
            Request().from_header(header)


@pytest.mark.parametrize(
    ("name", "near"),
    [("mrihvae_pixel", "mrihvae_pixels"), ("Uncertanty", "uncertainty"), ("mrihvae_", "mrihvae_"), ("\x1b[2J", "")],
)
def test_unknown_parameters_are_warned_of(name: str, near: str) -> None:
    with collect_notices() as notices:
        assert Request().updated({name: 1, "samples": 5}) == Request(samples=5)
    (notice,) = notices
    assert "is unknown; the nearest known one is '" + near in notice and notice.isprintable()


def test_warnings_are_few_and_short() -> None:
    with collect_notices() as notices:
        Request().updated({f"{k}{'y' * 2**20}": 1 for k in range(20)})
    assert len(notices) == MOST_WARNINGS + 1 and max(map(len, notices)) < 200
    assert notices[-1] == f"{20 - MOST_WARNINGS} more parameters are unknown, and were ignored"


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"method": "magic"}, "parameter method 'magic': is unknown; choose one of hybrid, amortized"),
        ({"method": None}, "parameter method 'None': is unknown"),
        ({"method": ["sense"]}, "parameter method"),
        ({"samples": 1}, f"parameter samples 1: must be 2 to {MOST_SAMPLES}"),
        ({"samples": MOST_SAMPLES + 1}, "must be 2 to"),
        ({"samples": 2.5}, "parameter samples '2.5': must be a whole number"),
        ({"samples": True}, "parameter samples 'True': must be a whole number"),
        ({"samples": "nan"}, "must be a whole number"),
        ({"samples": "1e400"}, "must be a whole number"),
        ({"uncertainty": 2}, "parameter uncertainty '2': must be true or false"),
        ({"mrihvae_uncertainty": {}}, "parameter mrihvae_uncertainty '{}': must be true or false"),
        ({"pixels": "double"}, "parameter pixels 'double': is unknown; choose one of float, short"),
        ({"zerofilled": "maybe"}, "parameter zerofilled 'maybe': must be true or false"),
    ],
)
def test_wrong_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Request().updated(parameters)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["method", "samples", "uncertainty", "pixels"])
def test_errors_are_short(name: str) -> None:
    for value in ("x" * 2**20, ["x"] * 2**18):
        with pytest.raises(InputError) as caught:
            Request().updated({name: value, f"mrihvae_{'y' * 2**20}": 1})
        assert len(str(caught.value)) < 200
