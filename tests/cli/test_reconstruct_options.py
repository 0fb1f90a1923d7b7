"""Options of `mrihvae reconstruct`: which go together, and which method and mask they describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mrihvae.cli.main import parse
from mrihvae.cli.options import Reconstruct
from mrihvae.cli.reconstruct_options import check_coil_options, check_options, read_method, read_undersampling
from mrihvae.errors import InputError
from mrihvae.model.weights import save_weights
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.settings import METHODS
from tests.support.small import small_model


def options(*words: str) -> Reconstruct:
    found = parse(["reconstruct", "scan.h5", "--output", "out", *words])
    assert isinstance(found, Reconstruct)
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, small_model(), {})
    return str(path)


# the methods that have a use for an option
USES = {
    ("--strength", "0.1"): ("sense", "wavelet", "tv"),
    ("--checkpoint", "default"): ("hybrid", "amortized", "samples", "pnp"),
    ("--precision", "float32"): ("hybrid", "amortized", "samples", "pnp"),
    ("--device", "cuda"): ("hybrid", "amortized", "samples", "pnp"),
    ("--device", "cpu"): METHODS,
    ("--samples", "4"): ("hybrid", "amortized", "samples"),
    ("--samples", "4", "--seed", "1"): ("hybrid", "amortized", "samples"),
    ("--samples", "4", "--temperature", "0.5"): ("hybrid", "amortized", "samples"),
    ("--seed", "1"): (),
    ("--views", "2"): ("hybrid", "samples", "pnp"),
    ("--rounds", "2"): ("hybrid", "samples"),
    ("--sweeps", "1"): ("hybrid", "samples", "pnp"),
    ("--samples", "4", "--sweeps", "1"): ("hybrid", "amortized", "samples"),
    ("--samples", "4", "--rule", "adam"): (),
    ("--samples", "4", "--sweeps", "1", "--rule", "adam"): ("hybrid", "amortized", "samples"),
    ("--rule", "gauss-newton"): ("hybrid",),
    ("--sweeps", "0", "--anchor", "prior"): (),
    ("--sweeps", "2", "--anchor", "prior"): ("hybrid", "samples"),
    ("--combine", "measured"): ("hybrid", "amortized", "samples"),
    ("--iterations", "2"): ("pnp",),
    ("--gamma", "0.2"): ("pnp",),
    ("--tau", "1"): ("pnp",),
    ("--encoder", "data"): ("pnp",),
    ("--maps", "fast"): tuple(method for method in METHODS if method != "zero-filled"),
    ("--no-whiten",): tuple(method for method in METHODS if method != "zero-filled"),
}


@pytest.mark.parametrize("words", USES, ids=" ".join)
def test_options_that_a_method_ignores_are_errors(words: Sequence[str]) -> None:
    """A value that equals the default counts as given, too."""
    accepted = []
    for method in METHODS:
        try:
            check_options(options("--method", method, *words))
        except InputError as error:
            assert any(str(error).startswith(word) for word in words if word.startswith("--"))
        else:
            accepted.append(method)
    assert tuple(accepted) == tuple(method for method in METHODS if method in USES[tuple(words)])


@pytest.mark.parametrize(
    "words", [("--maps", "fast"), ("--refine-maps", "2"), ("--no-whiten",), ("--virtual-coils", "0")]
)
def test_options_of_several_coils(words: Sequence[str]) -> None:
    with pytest.raises(InputError, match=f"{words[0]}: only applies to multi-coil scans, and INPUT has single-coil"):
        check_coil_options(options(*words), [1, 1])
    check_coil_options(options(*words), [1, 4])
    check_coil_options(options(*words), [1, None])  # of one that cannot be read
    check_coil_options(options(), [1])


def test_undersampling() -> None:
    assert read_undersampling(options()) is None
    assert read_undersampling(options("--mask-type", "random")) == Undersampling("random", 4, 0.08, -1)
    words = ("--mask-type", "center", "--acceleration", "2.5", "--axis", "H")
    assert read_undersampling(options(*words)) == Undersampling("center", 2.5, 0.128, -2)


def test_settings_are_those_that_are_given(checkpoint: str) -> None:
    plain: Any = read_method(options(), checkpoint)
    given: Any = read_method(options("--views", "1", "--sweeps", "3", "--maps", "espirit"), checkpoint)
    assert (plain.inference.views, plain.inference.refinement.sweeps, plain.coils.maps) == (2, 1, "fast")
    assert (given.inference.views, given.inference.refinement.sweeps, given.coils.maps) == (1, 3, "espirit")
    assert plain.sample_sweeps == given.sample_sweeps == 0
    drawn: Any = read_method(options("--samples", "3", "--sweeps", "2"), checkpoint)
    assert (drawn.samples, drawn.sample_sweeps) == (3, 2)
    means: Any = read_method(options("--method", "samples", "--sweeps", "2"), checkpoint)
    assert means.sample_sweeps == 2
    loop: Any = read_method(options("--method", "pnp", "--tau", "0.5"), checkpoint)
    assert (loop.pnp.tau, loop.pnp.gamma, loop.pnp.iterations) == (0.5, 0.2, 2)


def test_names_of_fastmris_scripts() -> None:
    words = ["reconstruct", "--challenge", "unet_knee_sc", "--data_path", "a", "--output_path", "b"]
    found: Any = parse([*words, "--state_dict_file", "w", "--device", "cuda"])
    check_options(found)
    assert (found.data_path, found.output, found.checkpoint) == (Path("a"), Path("b"), "w")
