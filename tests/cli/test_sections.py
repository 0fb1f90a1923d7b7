"""How options are declared: help and default of settings, positional arguments, whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from cyclopts import App, CycloptsError

from mrihvae.cli.sections import EXPERT, INPUT, USUAL, Options


@dataclass(frozen=True)
class Settings:
    """Settings.

    Attributes
    ----------
    steps : number of steps,
        of all; None for as many as it takes
    step : size of a step
    """

    steps: int | None = 3
    step: float = 0.5


def options_of(cls: type[Options], *words: str) -> Any:
    app = App(default_command=cls, default_parameter=USUAL, help_flags=(), version_flags=())
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return command(*bound.args, **bound.kwargs)


class Small(Options):
    """Small."""

    steps: int | None = EXPERT.setting(Settings, "steps", "all methods: ", shown="by the data")
    file: str = INPUT("a file", positional=True)
    pair: tuple[int, int] = INPUT("two", (1, 2))
    narrow: float | None = EXPERT.setting(Settings, "step", unset=True)
    wide: float = EXPERT.setting(Settings(step=2.0), "step")
    flag: bool = INPUT("a flag", False)


def test_defaults_and_help_are_those_of_settings() -> None:
    assert options_of(Small, "a") == Small("a", steps=3, pair=(1, 2), wide=2.0, flag=False)  # type: ignore[misc]
    arguments = {one.field_info.name: one for one in App(default_command=Small).assemble_argument_collection()}
    assert arguments["steps"].parameter.help == "all methods: number of steps, of all"
    assert arguments["steps"].parameter.show_default == "by the data"
    assert arguments["narrow"].parameter.show_default == "0.5"
    assert options_of(Small, "a").narrow is None and options_of(Small, "a", "--narrow", "0.5").narrow == 0.5
    assert arguments["wide"].parameter.help == "size of a step"


def test_unknown_setting() -> None:
    with pytest.raises(LookupError, match="the docstring of the settings lacks stepp"):
        EXPERT.setting(Settings, "stepp")


def test_positional_arguments_have_no_option() -> None:
    with pytest.raises(CycloptsError, match="Unknown option: --file"):
        options_of(Small, "--file", "a")
    with pytest.raises(CycloptsError, match="Unknown option: --no-flag"):
        options_of(Small, "a", "--no-flag")


@pytest.mark.parametrize("word", ["2.5", "2.0", "0x10", "many", "1e3"])
def test_whole_numbers(word: str) -> None:
    for words in (["--steps", word], ["--pair", "1", word]):
        with pytest.raises(CycloptsError, match=f"--(steps|pair): '{word}' is not a whole number"):
            options_of(Small, "a", *words)
