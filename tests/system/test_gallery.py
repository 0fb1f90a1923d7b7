"""The gallery of the documentation: each script runs, with what the package has, and leaves nothing behind."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from tests.support import REPOSITORY

GALLERY = REPOSITORY / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("plot_*.py"))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 9


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script as a program, in a temporary folder, which also gets its temporary files; it draws a picture."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with mpl.rc_context({"backend": "agg"}), torch.random.fork_rng(devices=[]):
        try:
            runpy.run_path(str(script), run_name="__main__")
            assert plt.get_fignums()
        finally:
            plt.close("all")
    assert not any((tmp_path / "empty").iterdir())
