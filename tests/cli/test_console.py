"""What is printed where, with --quiet and without, and between progress bars."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from tqdm import tqdm

from mrihvae.cli.console import end_progress, progress, show_error, show_warning, silence


def test_errors_alone_are_printed_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with silence():
        print("a result")
        print("progress", file=sys.stderr)
        logging.getLogger("mrihvae").warning("a warning")
        show_warning("a.h5", "beware")
        show_error("a.h5: is bad;\nleave it out")
    print("a result afterwards")
    assert capsys.readouterr() == ("a result afterwards\n", "mrihvae: error: a.h5: is bad; leave it out\n")


def test_silence_ends_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="wrong"), silence():
        bar = tqdm(total=2)
        raise ValueError("wrong")
    assert bar.disable
    show_warning("a.h5", "beware")
    assert capsys.readouterr() == ("", "a.h5: beware\n")


def test_lines_between_progress_bars(capsys: pytest.CaptureFixture[str]) -> None:
    bar = tqdm(total=2, leave=False)
    show_error("a.h5: is bad")
    bar.update()
    assert not bar.disable
    end_progress()
    assert bar.disable
    assert "mrihvae: error: a.h5: is bad\n" in capsys.readouterr().err


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "environment", "colored"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colors_are_for_terminals(
    terminal: bool, environment: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    show_error("a.h5: is bad")
    show_warning("\x1b[2Ja.h5", "beware")  # what a name would do to the terminal is escaped in any case
    error, warning = file.getvalue().splitlines()
    assert error == ("\x1b[1;31mmrihvae: error:\x1b[0m a.h5: is bad" if colored else "mrihvae: error: a.h5: is bad")
    name = "\\x1b[2Ja.h5:"
    assert warning == (f"\x1b[33m{name}\x1b[0m beware" if colored else f"{name} beware")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_has_a_name_and_an_estimate_on_terminals(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    assert list(progress([1, 2], "scan\n.h5", "slice", mininterval=0)) == [1, 2]
    text = file.getvalue()
    assert (text == "") != terminal
    if terminal:
        assert "scan\\x0a.h5:  50 %" in text and "1 of 2 slices, 00:0" in text and " left" in text
