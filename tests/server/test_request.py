"""What a scan asks for: names, kinds, where it may be written, and what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mrihvae.errors import InputError
from mrihvae.recon.settings import METHODS
from mrihvae.server.request import MOST_SAMPLES, Request

ALL = Request("sense", True, 12, "short")


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": "sense", "uncertainty": True, "samples": 12, "pixels": "short"},
        {"mrihvae_method": "sense", "mrihvae_uncertainty": 1, "mrihvae_samples": 12.0, "mrihvae_pixels": "short"},
        {"method": " sense ", "uncertainty": "TRUE", "samples": "12", "pixels": "short"},
        {"method": "sense", "uncertainty": "yes", "samples": "12.0", "pixels": "short", "Samples": 3, "else": None},
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
    assert Request().from_text(name) == Request().from_text(f" {name}.xml\n") == Request(name)


@pytest.mark.parametrize(
    "text",
    ["", "default.xml", "Hybrid", "<configuration/>", "[1, 2]", "5", "null", '"sense"', "{", "[" * 100000, "9" * 5000],
)
def test_texts_that_say_nothing(text: str) -> None:
    assert ALL.from_text(text) == ALL


def test_header_gives_those_with_a_prefix_alone() -> None:
    assert Request().from_header({"method": "tv", "samples": "no", "mrihvae_samples": "4"}) == Request(samples=4)


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
        ({"mrihvae_pixel": "short"}, "parameter mrihvae_pixel: is unknown; the nearest known one is 'mrihvae_pixels'"),
        ({"mrihvae_": 1}, "parameter mrihvae_: is unknown"),
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
