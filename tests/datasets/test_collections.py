"""Collections of real pictures: the formats byte by byte, every refusal, and training on them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mrihvae.cli.main import main
from mrihvae.datasets.collections import is_collection, read_collection
from mrihvae.errors import InputError
from mrihvae.model.weights import load_model
from mrihvae.physics.fourier import ifft2c
from mrihvae.training.draw import draw_real

RNG = np.random.default_rng(0)


def cifar(count: int) -> tuple[np.ndarray, bytes]:
    pictures = RNG.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return pictures, b"".join(bytes([k % 10]) + picture.tobytes() for k, picture in enumerate(pictures))


def idx(count: int, height: int = 28, width: int = 28) -> tuple[np.ndarray, bytes]:
    pictures = RNG.integers(0, 256, (count, 1, height, width), dtype=np.uint8)
    header = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in (count, height, width))
    return pictures, header + pictures.tobytes()


@pytest.mark.parametrize("name", ["data_batch_1.bin", "test_batch.bin.gz"])
def test_cifar10(tmp_path: Path, name: str) -> None:
    pictures, data = cifar(5)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert is_collection(tmp_path / name)
    found = read_collection(tmp_path / name)
    assert found.dtype == np.uint8 and np.array_equal(found, pictures)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz", "a.idx3-ubyte"])
def test_idx(tmp_path: Path, name: str) -> None:
    pictures, data = idx(4, 28, 20)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert is_collection(tmp_path / name) and np.array_equal(read_collection(tmp_path / name), pictures)


@pytest.mark.parametrize("name", ["scan.h5", "image.png", "train-labels-idx1-ubyte", "a.nii.gz"])
def test_other_files_are_no_collections(name: str) -> None:
    assert not is_collection(Path(name))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.bin", b"", "0 bytes are not a whole number of CIFAR10 pictures (3073)"),
        ("a.bin", cifar(2)[1][:-1], "6145 bytes are not a whole number"),
        ("a.bin.gz", cifar(1)[1], "not readable (Not a gzipped file"),
        ("a.bin.gz", gzip.compress(cifar(1)[1])[:-20], "not readable"),
        ("a-idx3-ubyte", b"\0\0\x08\x01" + bytes(20), "is not an IDX file of gray pictures"),
        ("a-idx3-ubyte", b"\0\0", "is not an IDX file of gray pictures"),
        ("a-idx3-ubyte", idx(2)[1][:-5], "1563 bytes for 2 pictures of 28 x 28; copy it again"),
        ("a-idx3-ubyte", idx(0)[1], "0 bytes for 0 pictures"),
    ],
)
def test_refused_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_collection(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and message in str(caught.value)
    with pytest.raises(InputError, match="not readable"):
        read_collection(tmp_path / "none.bin")


def test_batch_of_real_images() -> None:
    pictures, _ = idx(3, 28, 28)
    scans = draw_real([(picture, False) for picture in pictures], (32, 32))
    assert scans.kspace.shape == (3, 1, 32, 32) and bool(scans.mask.all()) and not scans.noise.any()
    images = ifft2c(scans.kspace)
    assert float(images.imag.abs().max()) < 1e-6
    np.testing.assert_allclose(images.real[:, :, 2:30, 2:30].numpy(), pictures / 255, atol=1e-5)
    assert float(images.abs().sum()) == pytest.approx(float((pictures / 255).sum()), rel=1e-4)


SETTINGS = {
    "model": {"widths": [16, 16], "layers": 1, "real": True, "masked": False, "cascades": 0, "guess_widths": [16],
              "noise_floor": 0.1},
    "training": {"shapes": [[32, 32]], "pixels": 4096, "steps": 3},
}  # fmt: skip


def test_training_on_pictures(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(6)[1])
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    call = ["train", str(tmp_path / "train-images-idx3-ubyte"), "--output", str(tmp_path / "run")]
    assert main([*call, "--settings", str(tmp_path / "settings.json")]) == 0
    model = load_model(str(tmp_path / "run" / "weights.safetensors"))
    assert model.settings.real and not hasattr(model, "r")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and all(np.isfinite(line["elbo"]) for line in lines)
    card = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert card["data"][0] | {"path": ""} == {"path": "", "slices": 6, "kind": "pictures", "share": 1.0}
    assert main([*call, "--resume", "--steps", "4"]) == 0
    assert torch.isfinite(next(model.parameters())).all()


@pytest.mark.parametrize(
    ("name", "data", "changes", "message"),
    [
        ("a.bin", cifar(2)[1], {}, "pictures of 3 channels; set the model's 'channels' to this number"),
        ("a-idx3-ubyte", idx(2, 40, 40)[1], {}, "pictures of 40 x 40 are larger than training 'shapes'"),
        ("a-idx3-ubyte", idx(2)[1], {"real": False}, "does not fit the model, which is for scans or magnitude images"),
    ],
)
def test_pictures_that_do_not_fit_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, changes: dict[str, bool], message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    settings = {**SETTINGS, "model": {**SETTINGS["model"], **changes}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    call = ["train", str(tmp_path / name), "--output", str(tmp_path / "run"), "--settings"]
    assert main([*call, str(tmp_path / "settings.json")]) == 2
    assert message in capsys.readouterr().err
