"""Evaluation protocols: those that are shipped, what a file may say, and the mistakes that are named."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import METRICS
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.weights import save_weights
from mrihvae.physics.sampling import Undersampling
from mrihvae.pnp.settings import FOR_SCANS
from mrihvae.protocols import evaluation as protocols
from mrihvae.protocols.evaluation import (
    MaskSettings,
    Protocol,
    find_protocol,
    kind_of,
    list_protocols,
    list_training_protocols,
    protocol_folder,
    read_protocol,
)
from mrihvae.recon.methods import HybridMethod, PnPMethod, SampleMeanMethod
from tests.support import REPOSITORY
from tests.support.files import error_of, run
from tests.support.small import small_model

ROOT = REPOSITORY
RANDOM = MaskSettings("random", 4, 0.08)
TEXT = """
description = "noise"
challenge = "singlecoil"
data = "val"
acquisitions = ["AXT2"]
metrics = ["SSIM", "PSNR"]
seed = 3

[mask]
type = "random"
acceleration = 4
center_fraction = 0.08

[solver]
method = "samples"
samples = 4
temperature = 0.5
step = 0.1
rule = "adam"
beta = [1.0, 2]
"""


def write(path: Path, text: str = TEXT) -> Path:
    path.write_text(text)
    return path


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_every_shipped_file_is_an_evaluation_or_has_a_script_that_is_there() -> None:
    evaluations, benchmarks = list_protocols()
    files = {path.stem for path in (ROOT / "protocols").glob("*.toml")}
    kinds = (*evaluations, *benchmarks, *list_training_protocols())
    assert sorted(kinds) == sorted(files)  # each is of one kind
    for name, (description, command) in benchmarks.items():
        assert description.endswith(".") and len(description) > 20
        python, _, module, protocol, *_ = command.split()
        assert python == "python" and (ROOT / f"{module.replace('.', '/')}.py").is_file()
        assert protocol == f"protocols/{name}.toml" and (ROOT / protocol).is_file()
    for name, description in evaluations.items():
        protocol = read_protocol(protocol_folder() / f"{name}.toml")
        assert protocol.description == description != ""
        assert protocol.metrics == METRICS and protocol.mask.seed == "file name"


@pytest.mark.parametrize("acceleration", [4, 8])
@pytest.mark.parametrize(
    ("name", "challenge", "mask_type"),
    [
        ("fastmri_knee_singlecoil", "singlecoil", "random"),
        ("fastmri_knee_multicoil", "multicoil", "random"),
        ("fastmri_brain_multicoil", "multicoil", "equispaced_fraction"),
    ],
)
def test_official_protocols(name: str, challenge: str, mask_type: str, acceleration: int) -> None:
    protocol = read_protocol(find_protocol(f"{name}_{acceleration}x"))
    assert protocol.challenge == challenge and protocol.data == f"{challenge}_val"
    assert protocol.mask.undersampling() == Undersampling(mask_type, acceleration, {4: 0.08, 8: 0.04}[acceleration])
    assert protocol.acquisitions == () and f"{acceleration}x" in protocol.description
    assert protocol.weights == {"singlecoil": "default", "multicoil": "multicoil"}[challenge]
    assert protocol.method == "hybrid"


def test_masks_of_shipped_protocols_are_those_of_fastmri() -> None:
    """The file name's mask, line by line, of fastMRI's own package."""
    from fastmri.data.subsample import create_mask_for_mask_type

    from mrihvae.physics.fastmri_masks import sampling_mask, seed_of

    for name in ("fastmri_knee_singlecoil_4x", "fastmri_knee_multicoil_8x", "fastmri_brain_multicoil_8x"):
        mask = read_protocol(find_protocol(name)).mask
        theirs = create_mask_for_mask_type(mask.type, [mask.center_fraction], [int(mask.acceleration)])
        expected, _ = theirs((1, 1, 368, 2), seed=tuple(map(ord, "file1000001.h5")))
        lines = sampling_mask(mask.type, 368, int(mask.acceleration), mask.center_fraction, seed_of("file1000001.h5"))
        assert np.array_equal(lines, expected.numpy().ravel() > 0)


def test_protocols_inside_of_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert protocol_folder() in (ROOT / "protocols", Path(protocols.__file__).parents[1] / "protocol_files")
    monkeypatch.setattr(protocols, "__file__", str(tmp_path / "mrihvae" / "protocols" / "evaluation.py"))
    assert protocol_folder() == tmp_path / "protocols"
    (tmp_path / "mrihvae" / "protocol_files").mkdir(parents=True)
    assert protocol_folder() == tmp_path / "mrihvae" / "protocol_files"


def test_build_takes_the_protocols_into_the_package() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert built["package-dir"]["mrihvae.protocol_files"] == "protocols"
    assert built["package-data"]["mrihvae.protocol_files"] == ["*.toml", "*.json"]
    assert "mrihvae.protocol_files" in built["packages"]


def test_command_lists_what_is_shipped_and_what_runs_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("protocols") == 0
    lines = capsys.readouterr().out.splitlines()
    evaluations, benchmarks = list_protocols()
    for name, description in evaluations.items():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split(maxsplit=1)[1] == description
    for name, (description, command) in benchmarks.items():
        (number,) = [number for number, line in enumerate(lines) if line.startswith(f"{name} ")]
        assert lines[number].split(maxsplit=1)[1] == description and lines[number + 1].strip() == command
    for name, description in list_training_protocols().items():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split(maxsplit=1)[1] == description
    for command in ("mrihvae run NAME", "mrihvae train --protocol NAME"):
        assert any(command in line for line in lines)


def test_command_prints_a_protocol_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("protocols", "ulf_singlecoil_4x") == 0
    copy = write(tmp_path / "mine.toml", capsys.readouterr().out)
    assert read_protocol(copy) == read_protocol(find_protocol("ulf_singlecoil_4x"))
    assert "near ones are ulf_singlecoil_4x" in error_of(capsys, "protocols", "ulf_singlecoil")


# --- what a file may say ---------------------------------------------------------------------------------------------


def test_protocol_is_read_whole(tmp_path: Path) -> None:
    protocol = read_protocol(write(tmp_path / "p.toml"))
    solver = {"method": "samples", "samples": 4, "temperature": 0.5, "step": 0.1, "rule": "adam", "beta": [1.0, 2]}
    assert protocol == Protocol(
        RANDOM, "singlecoil", "val", "noise", ("AXT2",), solver=solver, metrics=("SSIM", "PSNR"), seed=3
    )


def test_method_has_the_settings_of_the_protocol_and_of_the_weights(tmp_path: Path) -> None:
    """What calibrates posterior samples is the weights' own, unless the protocol says another."""
    path = str(tmp_path / "own.safetensors")
    save_weights(Path(path), small_model(), {"temperature": 0.7, "spread": 1.9})
    solver = {"method": "samples", "samples": 4, "temperature": 0.5, "step": 0.1, "rule": "adam", "beta": [1.0, 2, 3]}
    method = Protocol(RANDOM, "singlecoil", "val", weights=path, solver=solver).load()
    assert isinstance(method, SampleMeanMethod) and method.samples == 4 and method.inference.spread == 1.9
    assert method.inference.refinement.beta == (1.0, 2, 3) and method.inference.temperature == 0.5
    usual = Protocol(RANDOM, "singlecoil", "val", weights=path).load()
    assert isinstance(usual, HybridMethod) and usual.name == "hybrid"
    assert usual.inference == InferenceSettings(temperature=0.7, spread=1.9)


def test_settings_of_coils() -> None:
    protocol = Protocol(RANDOM, "multicoil", "val", coils={"maps": "espirit", "compress": 6})
    assert protocol.coil_settings() == CoilSettings(maps="espirit", compress=6)
    assert Protocol(RANDOM, "multicoil", "val").coil_settings() == CoilSettings()
    with pytest.raises(InputError, match="coils: unknown setting 'map'; the nearest known one is 'maps'"):
        Protocol(RANDOM, "multicoil", "val", coils={"map": "espirit"})
    with pytest.raises(InputError, match="coils: compress is 'all'"):
        Protocol(RANDOM, "multicoil", "val", coils={"compress": "all"})


@pytest.mark.parametrize("method", ["zero-filled", "wavelet", "tv"])
def test_other_methods_have_no_settings(method: str) -> None:
    assert Protocol(RANDOM, "singlecoil", "val", solver={"method": method}).load().name == method
    with pytest.raises(InputError, match=f"method '{method}' does not use samples, views"):
        Protocol(RANDOM, "singlecoil", "val", solver={"method": method, "views": 1, "samples": 2})
    with pytest.raises(InputError, match="method 'hybrid' does not use samples"):
        Protocol(RANDOM, "singlecoil", "val", solver={"samples": 2})


def test_pnp_has_settings_of_its_own() -> None:
    method = Protocol(RANDOM, "singlecoil", "val", solver={"method": "pnp", "gamma": 0.3, "views": 1}).load()
    assert isinstance(method, PnPMethod) and method.pnp == replace(FOR_SCANS, gamma=0.3, views=1)
    with pytest.raises(InputError, match="method 'pnp' does not use rounds, samples; leave it out"):
        Protocol(RANDOM, "singlecoil", "val", solver={"method": "pnp", "rounds": 1, "samples": 2})


MISTAKES = [
    ("challenge", "chalenge", "unknown setting 'chalenge'; the nearest known one is 'challenge'"),
    ("type =", "tipe =", "p.toml, mask: unknown setting 'tipe'; the nearest known one is 'type'"),
    ("method =", "metod =", "solver: unknown setting 'metod'; the nearest known one is 'method'"),
    ("temperature", "temprature", "solver: unknown setting 'temprature'; the nearest known one is 'temperature'"),
    ('"singlecoil"', '"singlecoils"', "challenge 'singlecoils' is unknown; choose one of singlecoil, multicoil"),
    ('"singlecoil"', "1", "challenge is 1; it must be of the same type"),
    ('challenge = "singlecoil"', "", "challenge '' is unknown; choose one of singlecoil, multicoil"),
    ('data = "val"', "", "data is missing"),
    ('data = "val"', 'data = ["val"]', "data is ['val']"),
    ('["AXT2"]', '"AXT2"', "acquisitions is 'AXT2'; it must be a list of names"),
    ('["AXT2"]', "[2]", "acquisitions is (2,); it must be a list of names"),
    ('["SSIM", "PSNR"]', '["SSIM", "LPIPS"]', "metrics SSIM, LPIPS: must be some of MSE, NMSE, PSNR, SSIM"),
    ('["SSIM", "PSNR"]', "[]", "metrics []: must be some of"),
    ('["SSIM", "PSNR"]', '"SSIM"', "metrics is 'SSIM'"),
    ("seed = 3", "seed = 1.5", "seed is 1.5"),
    ("seed = 3", "seed = -1", "seed -1 must be at least 0"),
    ("[mask]", "[coils]\nmaps = 'fast'\n[mask]", "[coils] only applies to challenge 'multicoil'"),
    ("acceleration = 4", 'acceleration = "4"', "acceleration is '4'"),
    ("acceleration = 4", "acceleration = true", "acceleration is True"),
    ("acceleration = 4\n", "", "p.toml, mask: acceleration 0.0 is not a number of at least 1"),
    ("acceleration = 4", "acceleration = 13", "center fraction 0.08 alone takes 10 of 128 lines"),
    ("acceleration = 4", "acceleration = 4.5", "acceleration 4.5 is not a whole number"),
    ('"random"', '"randum"', "p.toml, mask: mask type 'randum' is unknown; choose one of random, equispaced"),
    ("= 0.08", "= 0.08\nseed = 3", "seed is 3"),
    ("= 0.08", '= 0.08\nseed = "slice"', "seed 'slice' is unknown; masks are seeded by the 'file name'"),
    ('method = "samples"', 'method = "grappa"', "method 'grappa' is unknown; choose one of hybrid"),
    ("samples = 4", "samples = 0", "samples 0 must be at least 1"),
    ("step = 0.1", "step = -1.0", "step -1.0 must be above 0"),
    ("step = 0.1", "step = '1'", "step is '1'"),
    ("[solver]", "[[solver]]", "write a table [solver]"),
    ("[solver]", "[solver", "not a readable protocol"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in TEXT
    path = write(tmp_path / "p.toml", TEXT.replace(old, new, 1))
    with pytest.raises(InputError, match="p.toml") as error:
        read_protocol(path)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("challenge", "weights"), [("singlecoil", "default"), ("multicoil", "multicoil")])
def test_weights_that_are_left_out_are_those_of_the_challenge(challenge: str, weights: str, tmp_path: Path) -> None:
    assert read_protocol(write(tmp_path / "p.toml", TEXT.replace("singlecoil", challenge))).weights == weights


def test_protocols_that_are_no_files_or_too_large(tmp_path: Path) -> None:
    """A key of many parts takes Python's reader minutes, and a pipe has no end."""
    path = write(tmp_path / "p.toml", ".".join("a" * 100_000) + " = 1")
    with pytest.raises(InputError, match="p.toml: is larger than 32 KiB, too large for a protocol"):
        read_protocol(path)
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InputError, match="pipe.toml: is not a file"):
        read_protocol(tmp_path / "pipe.toml")


def test_mask_that_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "p.toml", 'challenge = "singlecoil"\ndata = "val"')
    with pytest.raises(InputError, match="p.toml, mask: mask type '' is unknown"):
        read_protocol(path)


def test_benchmarks_tell_their_command() -> None:
    command = "python -m benchmarks.singlecoil.quality protocols/singlecoil_masks.toml --data DIR"
    with pytest.raises(InputError, match=f"is the protocol of a benchmark.*: {command}$"):
        read_protocol(find_protocol("singlecoil_masks"))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"kind": "benchmark", "data": {"a": 1}}, "benchmark"),
        ({"patterns": []}, "benchmark"),
        ({"data": {"a": 1}}, "training"),
        ({"training": {}}, "training"),
        ({"data": "val", "challenge": "singlecoil"}, "evaluation"),
        ({"training": {}, "challenge": "singlecoil"}, "evaluation"),
        ({}, "evaluation"),
    ],
)
def test_kind_is_said_or_told_by_the_keys(values: dict[str, Any], kind: str) -> None:
    assert kind_of(values) == kind


def test_kind_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="p.toml: kind is 'other'; it must be one of evaluation, training, benchmark"):
        read_protocol(write(tmp_path / "p.toml", 'kind = "other"'))


def test_unknown_protocols(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="near ones are fastmri_knee_singlecoil_8x, fastmri_knee_singlecoil_4x"):
        find_protocol("fastmri_knee_singlecoil_5x")
    with pytest.raises(InputError, match="'mrihvae protocols' lists them"):
        find_protocol(str(tmp_path / "zzz.toml"))
    assert find_protocol(str(write(tmp_path / "p.toml"))) == tmp_path / "p.toml"
