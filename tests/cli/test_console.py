"""What is printed where, with --quiet and without, and between progress bars."""

from __future__ import annotations

import logging
import sys

import pytest
from tqdm import tqdm

from mrihvae.cli.console import end_progress, show_error, show_warning, silence


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
