"""`mrihvae sample`: what it draws, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from mrihvae.cli.main import main
from mrihvae.errors import InputError
from mrihvae.inference.latents import generate
from mrihvae.model.hvae import HVAE
from mrihvae.model.weights import save_weights
from mrihvae.physics.fourier import ifft2c
from tests.support.small import SMALL, small_model

REAL = dataclasses.replace(SMALL, real=True, channels=3, masked=False, cascades=0)


@pytest.fixture(scope="module")
def model() -> HVAE:
    return small_model().eval().requires_grad_(False)


@pytest.fixture
def checkpoint(tmp_path: Path, model: HVAE) -> Path:
    save_weights(tmp_path / "small.safetensors", model, {})
    return tmp_path / "small.safetensors"


def samples(path: Path) -> np.ndarray:
    with h5py.File(path, "r") as file:
        return np.asarray(file["samples"][()])


def test_generated_by_hand(model: HVAE) -> None:
    """Every latent is the prior's mean and its deviation, times the temperature, times a normal number."""
    found = generate(model, 2, (16, 24), temperature=0.5, seed=3)
    state, total = model.begin(2, (16, 24)), 0.0
    for j in range(SMALL.levels):
        state = model.upsample_state(j, state)
        for layer, z in zip(model.layers(j), found.latents[j], strict=True):
            prior, state = layer.prior_step(state)
            u = (z - prior.mu) / (0.5 * prior.sigma)
            total += float(u.square().sum())
            state = layer(state, z)
        torch.testing.assert_close(found.bands[j], model.head(j, state, (16, 24)))
    count = sum(z.numel() for level in found.latents for z in level)
    assert total / count == pytest.approx(1.0, abs=4 * (2 / count) ** 0.5)


def test_seeds_and_numbers_of_images(model: HVAE) -> None:
    three, two = (generate(model, count, (16, 16), seed=1).kspace for count in (3, 2))
    torch.testing.assert_close(three[:2], two, rtol=0, atol=1e-5)
    assert float((three[0] - three[1]).abs().max()) > 1e-3
    assert float((generate(model, 2, (16, 16), seed=2).kspace - two).abs().max()) > 1e-3
    cold = generate(model, 2, (16, 16), temperature=0.0).kspace
    assert torch.equal(cold[0], cold[1])


@pytest.mark.parametrize(
    ("images", "shape", "temperature", "message"),
    [
        (0, (16, 16), 1.0, "0 images of 16 x 16: draw at least 1, of multiples of 8"),
        (1, (16, 20), 1.0, "1 images of 16 x 20: draw at least 1, of multiples of 8"),
        (1, (0, 16), 1.0, "multiples of 8"),
        (1, (16, 16), -1.0, "temperature -1.0 must be at least 0"),
        (1, (16, 16), float("nan"), "temperature nan must be"),
    ],
)
def test_refused(model: HVAE, images: int, shape: tuple[int, int], temperature: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(model, images, shape, temperature)


def test_command(tmp_path: Path, checkpoint: Path, model: HVAE, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["sample", "--checkpoint", str(checkpoint), "--size", "16", "24", "--precision", "float32"]
    assert main([*call, "--samples", "5", "--temperature", "0.7", "--seed", "4", "--output", str(tmp_path / "a")]) == 0
    found = samples(tmp_path / "a" / "samples.h5")
    expected = ifft2c(generate(model.half().float(), 5, (16, 24), 0.7, 4).kspace).numpy()
    assert found.shape == (5, 16, 24) and found.dtype == np.complex64
    np.testing.assert_allclose(found, expected, atol=1e-2)
    for name in ("samples.png", "bands.png"):
        with Image.open(tmp_path / "a" / name) as picture:
            assert min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 5
    assert "5 images of 16 x 24" in capsys.readouterr().out
    assert not list(tmp_path.rglob(".*part"))


def test_command_for_real_images(tmp_path: Path) -> None:
    save_weights(tmp_path / "real.safetensors", small_model(settings=REAL), {})
    call = ["sample", "--checkpoint", str(tmp_path / "real.safetensors"), "--size", "16", "16", "--samples", "2"]
    assert main([*call, "--output", str(tmp_path / "a")]) == 0
    found = samples(tmp_path / "a" / "samples.h5")
    assert found.shape == (2, 3, 16, 16) and found.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "0 images of 16 x 16: draw at least 1"),
        (["--size", "15", "16"], "of multiples of 8"),
        (["--temperature", "-1"], "temperature -1.0 must be at least 0"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--checkpoint", "none"], "none: neither shipped weights"),
    ],
)
def test_mistakes(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    call = ["sample", "--checkpoint", str(checkpoint), "--size", "16", "16", "--output", str(tmp_path / "a")]
    assert main([*call, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
