"""`mrihvae send`: scans of any format to a server, the images it stores, and what goes wrong."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("ismrmrd")

from mrihvae.cli import send
from mrihvae.cli.send import parameter_text
from mrihvae.io.mrd.image_files import read_mrd_images
from mrihvae.recon.catalog import make_method
from tests.support import mrd
from tests.support.files import error_of, run, write_scan
from tests.support.serving import HOST, expected, lines_of, scan, serving

ZERO = make_method("zero-filled")
FLOAT = ("--parameter", "pixels=float")


def stored(folder: Path, series: str = "image_1") -> Any:
    """Read the pixels and headers of a series."""
    with h5py.File(folder / "images.mrd") as file:
        group = file["dataset"][series]
        return group["data"][:, 0, 0], group["header"][:]


def test_ismrmrd_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml, lines = scan(slices=3, coils=2, slice_order="odd_even", noise_scans=2, mask=lines_of(24))
    mrd.write_mrd(tmp_path / "scan.h5", xml, lines)
    with serving() as running:
        assert run("send", tmp_path / "scan.h5", f"{HOST}:{running.port}", "-o", tmp_path / "out", *FLOAT) == 0
    pixels, heads = stored(tmp_path / "out")
    assert heads["slice"].tolist() == [0, 2, 1]  # in the order in which they came
    for picture, slice_ in zip(pixels, heads["slice"]):
        np.testing.assert_array_equal(picture, expected(lines[2:], 24, ZERO, slice_))
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'out' / 'images.mrd'}: image_1, 3 images\n"
    assert shown.err.count("INFO mrihvae: slice ") == 3
    with h5py.File(tmp_path / "out" / "images.mrd") as file:
        assert file["dataset/xml"][0].decode() == xml


def test_fastmri(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.h5", (2, 3, 24, 20))
    with h5py.File(path) as file:
        target = file["reconstruction_rss"][:]
    with serving() as running:
        assert run("send", path, f"{HOST}:{running.port}", "--output", tmp_path / "out", *FLOAT) == 0
    volume = read_mrd_images(tmp_path / "out" / "images.mrd")
    np.testing.assert_allclose(volume.pixels, target, rtol=1e-5)


def test_kspace_of_another_name_and_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the errors of files advise, `--key` and `--uncentered`, are options of this command, too."""
    path = write_scan(tmp_path / "scan.h5", (2, 3, 24, 20))
    with h5py.File(path, "a") as file:
        target, kspace = file["reconstruction_rss"][:], file["kspace"][:]
        del file["kspace"]
        file["raw/ksp"], file["raw/other"] = np.fft.ifftshift(kspace, axes=(-2, -1)), np.ones_like(kspace)
    with serving() as running:
        words = ("send", path, f"{HOST}:{running.port}", "--output", tmp_path / "out", *FLOAT)
        assert "choose one with --key" in error_of(capsys, *words)
        assert run(*words, "--key", "raw/ksp", "--uncentered") == 0
    np.testing.assert_allclose(read_mrd_images(tmp_path / "out" / "images.mrd").pixels, target, rtol=1e-5)


def test_images_come_back(tmp_path: Path) -> None:
    image = mrd.Image(np.arange(12, dtype="<i2").reshape(1, 1, 3, 4), "", slice=2, image_series_index=5)
    mrd.store_images(tmp_path / "images.h5", [image], "")
    with serving() as running:
        assert run("send", tmp_path / "images.h5", f"{HOST}:{running.port}", "--output", tmp_path / "out") == 0
    pixels, heads = stored(tmp_path / "out", "image_5")
    np.testing.assert_array_equal(pixels, image.data[0])
    assert heads["slice"].tolist() == [2]


def test_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        mrd.write_mrd(tmp_path / f"{number}.h5", *scan(slices=number))
    with h5py.File(tmp_path / "1.h5", "a") as file, h5py.File(tmp_path / "2.h5") as other:
        other.copy("dataset", file, "dataset_1")
    with serving() as running:
        words = ("send", tmp_path / "1.h5", f"{HOST}:{running.port}", "--output", tmp_path / "out")
        several = error_of(capsys, *words)
        assert "holds several scans, dataset, dataset_1; choose one of them with --group" in several
        assert "has no 'x'; give --group one of dataset, dataset_1" in error_of(capsys, *words, "--group", "x")
        assert run(*words, "--group", "dataset_1") == 0
        assert len(stored(tmp_path / "out")[0]) == 2
        assert "is already there; choose another --output, or add --overwrite" in error_of(capsys, *words)
        assert run(*words, "--group", "dataset", "--overwrite") == 0
        assert len(stored(tmp_path / "out")[0]) == 1


@pytest.mark.parametrize(
    "pairs, values",
    [
        (["a=1", "b=true", "c=x y", "d=1.5", "e="], {"a": 1, "b": True, "c": "x y", "d": 1.5, "e": ""}),
        (["a=1=2"], {"a": "1=2"}),
    ],
)
def test_parameters(pairs: list[str], values: dict[str, Any]) -> None:
    assert json.loads(parameter_text(tuple(pairs))) == {"parameters": values}
    assert parameter_text(None) == "" == parameter_text(())


def test_requests_reach_the_server(tmp_path: Path) -> None:
    xml, lines = scan(slices=1, coils=2, mask=lines_of(24))
    mrd.write_mrd(tmp_path / "scan.h5", xml, lines)
    with serving() as running:
        words = ("send", tmp_path / "scan.h5", f"{HOST}:{running.port}", "--output", tmp_path / "out")
        assert run(*words, "--config", "sense", *FLOAT, "--parameter", "zerofilled=true") == 0
    np.testing.assert_array_equal(stored(tmp_path / "out")[0][0], expected(lines, 24, make_method("sense")))
    np.testing.assert_array_equal(stored(tmp_path / "out", "image_2")[0][0], expected(lines, 24, ZERO))


def test_errors_of_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mrd.write_mrd(tmp_path / "scan.h5", *scan(slices=1))
    with serving() as running:
        words = ("send", tmp_path / "scan.h5", f"{HOST}:{running.port}", "--output", tmp_path / "out")
        assert run(*words, "--parameter", "samples=1") == 1
    shown = capsys.readouterr()
    assert shown.err == f"mrihvae: error: {HOST}:{running.port}: mrihvae: parameter samples 1: must be 2 to 256\n"
    assert shown.out == "" and not (tmp_path / "out").exists()


def test_server_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml, lines = scan(slices=1, noise_scans=3)
    mrd.write_mrd(tmp_path / "noise.h5", xml, lines[:3])
    with serving() as running:
        assert run("send", tmp_path / "noise.h5", f"{HOST}:{running.port}", "--output", tmp_path / "out") == 1
    assert capsys.readouterr().err.endswith(
        f"mrihvae: error: {HOST}:{running.port}: sent no image; see the server's log\n"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (("--timeout", "0"), "--timeout 0.0: must be a number of seconds above 0"),
        (("--parameter", "method"), "--parameter 'method': is not NAME=VALUE"),
        (("--config", ""), "configuration '': its name must have 1 to 1023 bytes"),
        ((), "127.0.0.1:1: cannot be reached (Connection refused)"),
    ],
)
def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Any, message: str) -> None:
    mrd.write_mrd(tmp_path / "scan.h5", *scan(slices=1))
    shown = error_of(capsys, "send", tmp_path / "scan.h5", "127.0.0.1:1", "--output", tmp_path / "out", *words)
    assert message in shown


def test_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no k-space")
    for name, message in (("missing", "file not found"), ("text", "unrecognized format")):
        assert message in error_of(capsys, "send", tmp_path / name, "127.0.0.1:1", "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (mrd.image(mrd.Image(np.zeros((1, 1, 64, 64), np.float32), "")), "sent images of more than 0.0156 GiB"),
        (mrd.text("INFO again"), "sent more than 100 texts"),
    ],
    ids=["images", "texts"],
)
def test_servers_that_never_end_are_left(
    message: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "MOST_TEXTS", 100)
    monkeypatch.setenv("MRIHVAE_MAX_MEMORY", "0.015625")
    with socket.create_server((HOST, 0)) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                while True:
                    connection.sendall(message)

        thread = threading.Thread(target=reply)
        thread.start()
        path = write_scan(tmp_path / "scan.h5", (1, 24, 20))
        assert run("send", path, f"{HOST}:{server.getsockname()[1]}", "--output", tmp_path / "out") == 1
        thread.join(timeout=30)
    assert not thread.is_alive() and told in capsys.readouterr().err
