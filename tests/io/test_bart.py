"""BART's arrays: round trips, BART itself, and every way in which a pair of files can be wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mrihvae.errors import InputError
from mrihvae.io.bart import read_cfl, write_cfl
from tests.support.files import complex_normal


@pytest.mark.parametrize("shape", [(7,), (5, 6), (4, 5, 1, 3), (1, 1, 2), (3, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4)])
def test_round_trip_is_exact(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = complex_normal(shape)
    write_cfl(tmp_path / "scan", array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.cfl", "scan.hdr"]
    assert np.array_equal(read_cfl(tmp_path / "scan"), array)


@pytest.mark.parametrize("name", ["scan", "scan.cfl", "scan.hdr", "scan.v1.2"])
def test_names(name: str, tmp_path: Path) -> None:
    """Either file names the array, and other dots are part of its name."""
    array = complex_normal((3, 4))
    write_cfl(tmp_path / name, array)
    base = name if name == "scan.v1.2" else "scan"
    for given in (base, f"{base}.cfl", f"{base}.hdr"):
        assert np.array_equal(read_cfl(tmp_path / given), array)


def test_file_is_as_bart_has_it(tmp_path: Path) -> None:
    """First dimension fastest, little-endian pairs of float32; further dimensions of 1, up to 16, and comments."""
    array = (np.arange(6).reshape(2, 3) + 1j).astype(np.complex64)
    write_cfl(tmp_path / "a", array)
    assert np.fromfile(tmp_path / "a.cfl", "<f4")[::2].tolist() == [0, 3, 1, 4, 2, 5]
    assert (tmp_path / "a.hdr").read_text().splitlines()[:2] == ["# Dimensions", "2 3" + " 1" * 14]
    (tmp_path / "a.hdr").write_text("# Creator\nBART\n# Dimensions\n2 3 1 1 \n# Command\nones 2 3 a\n")
    assert np.array_equal(read_cfl(tmp_path / "a"), array)


@pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")
def test_bart_reads_and_writes_the_same(tmp_path: Path) -> None:
    array = complex_normal((6, 5, 1, 3))
    write_cfl(tmp_path / "in", array)
    subprocess.run(["bart", "scale", "2", tmp_path / "in", tmp_path / "out"], check=True, capture_output=True)
    assert np.array_equal(read_cfl(tmp_path / "out"), 2 * array)


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (
            None,
            b"",
            "a.cfl: incomplete, as a.hdr is missing; BART's arrays are a .cfl and a .hdr: write or copy both again",
        ),
        ("# Dimensions\n2 3\n", None, "a.cfl: cannot be read (No such file or directory)"),
        ("", b"", "a.hdr: has no sizes below '# Dimensions'"),
        ("# Dimensions\n", b"", "a.hdr: has no sizes"),
        ("# Dimensions\n2 x\n", b"", "a.hdr: has no sizes"),
        ("# Dimensions\n2 0 1\n", b"", "a.hdr: has no sizes"),
        ("# Dimensions\n-2 -3\n", b"0" * 48, "a.hdr: has no sizes"),
        ("# Dimensions\n2 3\n", b"0" * 47, "a.cfl: has 47 bytes, and a.hdr says 2 x 3 numbers, 48 bytes"),
        ("# Dimensions\n2 3\n", b"0" * 56, "a.cfl: has 56 bytes"),
        (f"# Dimensions\n{2**40} {2**40}\n", b"0" * 8, "a.cfl: has 8 bytes"),
        ("# Dimensions\n1\n", np.array([np.nan + 0j], np.complex64).tobytes(), "a.cfl: holds NaN or infinite values"),
    ],
)
def test_wrong_pairs_are_refused(header: str | None, data: bytes | None, said: str, tmp_path: Path) -> None:
    if header is not None:
        (tmp_path / "a.hdr").write_text(header)
    if data is not None:
        (tmp_path / "a.cfl").write_bytes(data)
    with pytest.raises(InputError) as error:
        read_cfl(tmp_path / "a")
    assert said in str(error.value) and str(error.value).startswith(str(tmp_path))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an array of 17 dimensions; BART's have 1 to 16"):
        write_cfl(tmp_path / "a", np.zeros((1,) * 17))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_cfl(tmp_path / "file" / "a", np.zeros(3))


def test_full_disk_keeps_the_earlier_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cfl(tmp_path / "a", complex_normal((2, 3)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # of the header
    with pytest.raises(InputError, match="cannot be written"):
        write_cfl(tmp_path / "a", complex_normal((2, 4)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
