"""The message for each mistake of a user: one line that names the thing, what is wrong with it and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrihvae.cli.main import main
from mrihvae.model.weights import save_weights
from tests.support.files import PROTOCOL, complex_normal, truncate, write_h5, write_scan
from tests.support.small import small_kspace, small_model

LINES = abs(np.arange(20) - 10) < 6  # acquired in undersampled scans
SHAPE = (2, 24, 20)


def undersampled(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.where(LINES, complex_normal(shape), 0).astype(np.complex64)


def spoiled(value: complex) -> np.ndarray:
    kspace = undersampled()
    kspace[1, 3, 10] = value
    return kspace


def truncated(path: Path) -> None:
    write_scan(path, (2, 64, 64))
    truncate(path)


def images(shape: tuple[int, int, int] = (2, 64, 64)) -> np.ndarray:
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(small_kspace(*shape).numpy(), (1, 2))), (1, 2))


def text(path: Path, content: str = "hello") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def array(path: Path, values: np.ndarray, axes: list[str] | None) -> None:
    np.save(path, values)
    if axes is not None:
        text(path.with_suffix(".json"), json.dumps({"axes": axes}))


def weights(path: Path, spoil: Callable[[Path], object] = lambda path: None) -> None:
    save_weights(path, small_model(), {})
    spoil(path)


def results(folder: Path) -> None:
    write_scan(folder.parent / "used.h5", kspace=undersampled(), mask=LINES)
    main(["reconstruct", "used.h5", "--output", str(folder), "--method", "zero-filled"])
    (folder.parent / "used.h5").unlink()


def pictures(folder: Path) -> None:
    write_h5(folder / "a.h5", reconstruction=np.ones((2, 20, 20), np.float32))


def mixed(folder: Path) -> None:
    write_scan(folder / "a.h5", kspace=undersampled(), mask=LINES)
    text(folder / "b.h5")
    text(folder / ".c.h5")  # hidden
    text(folder / "notes.txt")


MAPS = complex_normal((1, 4, 24, 20))
# every file that a mistake needs, by its name in the command
FILES: dict[str, Callable[[Path], object]] = {
    "scan.h5": lambda path: write_scan(path, kspace=undersampled(), mask=LINES),
    "full.h5": write_scan,
    "coils.h5": lambda path: write_scan(path, (2, 4, 24, 20), kspace=undersampled((2, 4, 24, 20)), mask=LINES),
    "text.h5": text,
    "notes.txt": text,
    "truncated.h5": truncated,
    "keys.h5": lambda path: write_h5(path, image=np.zeros(3)),
    "flat.h5": lambda path: write_scan(path, kspace=complex_normal((24, 20))),
    "zeros.h5": lambda path: write_scan(path, kspace=np.zeros(SHAPE, np.complex64)),
    "silent.h5": lambda path: write_scan(path, kspace=np.zeros(SHAPE, np.complex64), mask=LINES),
    "nan.h5": lambda path: write_scan(path, kspace=spoiled(np.nan), mask=LINES),
    "inf.h5": lambda path: write_scan(path, kspace=spoiled(np.inf), mask=LINES),
    "real.h5": lambda path: write_scan(path, kspace=np.ones(SHAPE)),
    "mask_short.h5": lambda path: write_scan(path, mask=np.ones(7)),
    "mask_empty.h5": lambda path: write_scan(path, mask=np.zeros(20)),
    "mask_soft.h5": lambda path: write_scan(path, mask=np.linspace(0, 1, 20)),
    "maps.h5": lambda path: write_scan(path, (2, 4, 24, 20), mask=LINES, sensitivity_maps=MAPS[..., :12]),
    "last.h5": lambda path: write_scan(path, (2, 96, 80, 4), reconstruction_rss=None, mask=np.arange(4) < 3),
    "images.h5": lambda path: write_scan(path, kspace=images(), reconstruction_esc=None),
    "corner.h5": lambda path: write_scan(
        path, kspace=np.fft.fftshift(small_kspace(2, 64, 64).numpy(), (1, 2)), mask=np.arange(64) % 64 < 60
    ),
    "alone.npy": lambda path: array(path, undersampled(), None),
    "axes.npy": lambda path: array(path, undersampled(), ["slice", "H", "V"]),
    "real.npy": lambda path: array(path, undersampled().real, ["slice", "H", "W"]),
    "alone.cfl": lambda path: text(path, "0" * 64),
    "empty": Path.mkdir,
    "targets": lambda path: write_scan(path / "a.h5"),
    "results": results,
    "predictions": pictures,
    "others": lambda path: write_h5(path / "b.h5", reconstruction=np.ones((2, 20, 20), np.float32)),
    "mixed": mixed,
    "blind": lambda path: write_scan(path / "a.h5", reconstruction_esc=None),
    "data": lambda path: write_scan(path / "val" / "a.h5"),
    "own.toml": lambda path: text(path, PROTOCOL),
    "key.toml": lambda path: text(path, PROTOCOL.replace("challenge", "chalenge")),
    "broken.toml": lambda path: text(path, "[mask"),
    "coils.toml": lambda path: text(path, PROTOCOL.replace("singlecoil", "multicoil")),
    "settings.json": lambda path: text(path, '{"training": {"step": 3}}'),
    "whole.safetensors": weights,
    "damaged.safetensors": lambda path: weights(path, truncate),
    "cardless.safetensors": lambda path: weights(path, lambda path: path.with_suffix(".json").unlink()),
    "photo.png": lambda path: Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path),
}

# a command, and what it says, indented; "..." stands for anything: other programs' words, and lists that grow
MISTAKES = """
# words and names
reconstuct scan.h5 -o out
    Unknown command "reconstuct". Did you mean "reconstruct"? Available commands: ...
reconstruct scan.h5
    Command "reconstruct" parameter --output is missing; add it.
reconstruct scan.h5 --outptu out
    Command "reconstruct" parameter --output is missing; add it. Did you mean --output instead of --outptu?
reconstruct scan.h5 -o out --virtual-coil 2
    Unknown option: --virtual-coil. Did you mean --virtual-coils?
reconstruct scan.h5 -o out --method magic
    Invalid value "magic" for --method. Choose from: "hybrid", "amortized", "samples", "pnp", "zero-filled", ...
reconstruct scan.h5 -o out --sweeps many
    Invalid value for --sweeps: 'many' is not a whole number
reconstruct scan.h5 full.h5 -o out
    Unused Tokens: ['full.h5']. See 'mrihvae reconstruct --help'.
reconstruct scan.h5 -o out -v -q
    --verbose and --quiet: contradict each other; give only one of them

# input
reconstruct -o out
    INPUT: give a file with k-space or a folder of them, here or with --data_path
reconstruct nowhere.h5 -o out
    nowhere.h5: file not found; give fastMRI HDF5, ...
reconstruct empty -o out
    empty: no file with k-space in this folder; give fastMRI HDF5, ...
reconstruct notes.txt -o out
    notes.txt: unrecognized format; give fastMRI HDF5, ...
reconstruct photo.png -o out
    photo.png: is an image (PNG), and not k-space; 'mrihvae restore' takes images, 'mrihvae simulate' undersamples them
reconstruct predictions/a.h5 -o out
    predictions/a.h5: is a reconstruction, without k-space; give the scan that it was made from
reconstruct text.h5 -o out
    text.h5: truncated or not an HDF5 file (...); copy it again
reconstruct truncated.h5 -o out
    truncated.h5: truncated or not an HDF5 file (...); copy it again
reconstruct alone.npy -o out
    alone.json: not readable as JSON (missing: the array is incomplete without it); write {"axes": ["slice", "coil",
    "H", "W"]}, as in the array
reconstruct axes.npy -o out
    axes.json: 'axes' is ['slice', 'H', 'V']; give a list of 'H' and 'W', and of 'slice' and 'coil' where the array
    has them
reconstruct alone.cfl -o out
    alone.cfl: incomplete, as alone.hdr is missing; BART's arrays are a .cfl and a .hdr: write or copy both again
reconstruct keys.h5 -o out
    keys.h5: has no dataset 'kspace' (it has image); ...
reconstruct flat.h5 -o out
    flat.h5: 'kspace' has shape (24, 20); it must be (slices, H, W) or (slices, coils, H, W)

# k-space, masks and maps
reconstruct zeros.h5 -o out --method zero-filled
    zeros.h5: k-space is zero everywhere; there is nothing to reconstruct from
reconstruct silent.h5 -o out --method zero-filled
    silent.h5: k-space is zero everywhere; there is nothing to reconstruct from
convert zeros.h5 zeros.nii
    zeros.h5: ...
reconstruct nan.h5 -o out --method zero-filled
    nan.h5: dataset 'kspace' holds NaN or infinite values; export the scan again
reconstruct inf.h5 -o out --method zero-filled
    inf.h5: dataset 'kspace' holds NaN or infinite values; export the scan again
reconstruct real.h5 -o out --method zero-filled
    real.h5: 'kspace' is float64, not complex; store it as complex64
reconstruct real.npy -o out --method zero-filled
    real.npy: is float32 of shape (2, 24, 20); give complex numbers with axes ['slice', 'H', 'W']
reconstruct last.h5 -o out --method zero-filled
    last.h5: axes look like (slice, H, W, coil), with 4 coils last; move coils behind slices
reconstruct images.h5 -o out --method zero-filled --mask-type random
    images.h5: holds images, not k-space: only its Fourier transform looks like k-space; transform it first
reconstruct corner.h5 -o out --method zero-filled
    corner.h5: is not centered: the strongest sample is at a corner, as after a Fourier transform without fftshift; ...
reconstruct mask_short.h5 -o out --method zero-filled
    mask_short.h5: 'mask' has shape (7,) but k-space has 20 lines and slices of (24, 20); store one entry per line,
    or per sample
reconstruct mask_empty.h5 -o out --method zero-filled
    mask_empty.h5: 'mask' marks no sample as acquired; there is nothing to reconstruct from
reconstruct mask_soft.h5 -o out --method zero-filled
    mask_soft.h5: 'mask' holds 0.0526316 and 1 besides 0; store 1 where a sample was acquired
reconstruct maps.h5 -o out --method sense
    maps.h5: 'sensitivity_maps' is complex64 of shape (1, 4, 24, 12), and k-space has shape (2, 4, 24, 20); store
    complex ...
reconstruct full.h5 -o out --method zero-filled
    full.h5: k-space is fully sampled and has no mask; add --mask-type to undersample it, or store its mask
reconstruct scan.h5 -o out --method zero-filled --mask-type random
    scan.h5: is already undersampled (it has a mask); leave out --mask-type
reconstruct scan.h5 -o out --method zero-filled --challenge multicoil
    scan.h5: has one coil, which does not match challenge 'multicoil'; leave out the file or the option

# output
reconstruct scan.h5 -o notes.txt --method zero-filled
    notes.txt: cannot be written (it is a file); choose another --output
reconstruct scan.h5 -o notes.txt/below --method zero-filled
    notes.txt/below: cannot be written (notes.txt is a file); choose another --output
reconstruct scan.h5 -o results --method zero-filled
    results: has results already (reconstruct.json); add --resume to continue, --overwrite to replace them, or
    choose another --output
reconstruct scan.h5 -o results --method zero-filled --resume --overwrite
    --overwrite and --resume: contradict each other; give only one of them
reconstruct scan.h5 -o results --method tv --resume
    results/reconstruct.json: was made with method zero-filled, not tv; choose another --output, or give --overwrite
    in place of --resume

# options that would be ignored
reconstruct scan.h5 -o out --acceleration 4
    --acceleration: needs --mask-type; add it, or leave this option out
reconstruct scan.h5 -o out --axis W
    --axis: needs --mask-type; add it, or leave this option out
reconstruct full.h5 -o out --mask-type radial --center-fraction 0.1
    --center-fraction: does not apply to --mask-type radial (the pattern samples the center by itself); leave it out
reconstruct full.h5 -o out --mask-type spiral --axis H
    --axis: does not apply to --mask-type spiral (the pattern has no lines); leave it out
reconstruct scan.h5 -o out --gamma 0.2
    --gamma: does not apply to --method hybrid (it applies to pnp); leave it out
reconstruct scan.h5 -o out --iterations 2
    --iterations: does not apply to --method hybrid (it applies to pnp); leave it out
reconstruct scan.h5 -o out --strength 0.1
    --strength: does not apply to --method hybrid (it applies to sense, wavelet, tv); leave it out
reconstruct scan.h5 -o out --method tv --views 2
    --views: does not apply to --method tv (it applies to hybrid, samples, pnp); leave it out
reconstruct scan.h5 -o out --method amortized --sweeps 1
    --sweeps: does not apply to --method amortized (it refines nothing without --samples); leave it out
reconstruct scan.h5 -o out --method pnp --rule adam
    --rule: does not apply to --method pnp (it applies to hybrid, amortized, samples); leave it out
reconstruct scan.h5 -o out --samples 4 --rule adam
    --rule: only applies to refinement, and there is none; add --sweeps, or leave it out
reconstruct scan.h5 -o out --maps espirit
    --maps: only applies to multi-coil scans, and INPUT has single-coil scans; leave it out
reconstruct coils.h5 -o out --method zero-filled --virtual-coils 2
    --virtual-coils: does not apply to --method zero-filled (it does not combine or compress coils); leave it out
reconstruct scan.h5 -o out --method zero-filled --checkpoint default
    --checkpoint: does not apply to --method zero-filled (it applies to hybrid, amortized, samples, pnp); leave it out
reconstruct scan.h5 -o out --method zero-filled --precision float32
    --precision: does not apply to --method zero-filled (it applies to hybrid, amortized, samples, pnp); leave it out
reconstruct scan.h5 -o out --method zero-filled --device cuda
    --device cuda: --method zero-filled computes on the CPU; leave it out
reconstruct scan.h5 -o out --seed 1
    --seed: only applies to posterior samples; add --samples, or leave it out

# values, weights and devices
reconstruct full.h5 -o out --method zero-filled --mask-type random --acceleration 0
    acceleration 0 is not a number of at least 1
reconstruct scan.h5 -o out --samples 1
    --samples 1: a standard deviation needs at least 2
reconstruct scan.h5 -o out --samples 2 --seed -1
    --seed -1: must be at least 0
reconstruct scan.h5 -o out --method tv --samples 4
    --samples: tv does not support posterior sampling; choose --method hybrid or amortized or samples
reconstruct scan.h5 -o out --checkpoint nowhere.safetensors
    nowhere.safetensors: neither shipped weights (default, multicoil, restoration) nor a .safetensors file; give one
    of them
reconstruct scan.h5 -o out --checkpoint damaged.safetensors
    damaged.safetensors: not a readable safetensors file (...); copy it again
reconstruct scan.h5 -o out --checkpoint cardless.safetensors
    cardless.json: missing; it must lie beside cardless.safetensors with the model's settings
reconstruct scan.h5 -o out --checkpoint whole.safetensors --device moon
    --device moon: cannot be used (...); try cpu

# protocols
run fastmri_knee_singelcoil_4x --data data -o out
    fastmri_knee_singelcoil_4x: neither a protocol of the package (near ones are fastmri_knee_singlecoil_4x, ...)
    nor a TOML file; give one of them
run key.toml --data data -o out
    key.toml: unknown setting 'chalenge'; the nearest known one is 'challenge'
run broken.toml --data data -o out
    broken.toml: not a readable protocol (...); check the file
run coils.toml --data data -o out
    data/val/a.h5: is singlecoil, but the protocol's challenge is multicoil; check --data
run own.toml --data nowhere -o out
    nowhere: has no folder 'val', and no file with k-space itself; give --data with them
run own.toml --data data -o out --device cuda
    --device cuda: method 'zero-filled' computes on the CPU; leave it out
run own.toml --data data -o results
    results: has results already (reconstruct.json); add --resume to continue, --overwrite to replace them, or
    choose another --output

# scores, reports and conversion
evaluate --target-path targets --predictions-path others --challenge singlecoil
    others/a.h5: file not found, but targets/a.h5 needs a prediction; reconstruct it or filter it out (the folder has
    b.h5)
evaluate --target-path blind --predictions-path predictions --challenge singlecoil
    blind/a.h5: has no dataset 'reconstruction_esc', the target to compare with; give fully sampled scans with their
    targets
evaluate --target-path targets --predictions-path predictions --challenge multicoil
    targets/a.h5: has no dataset 'reconstruction_rss', the target to compare with; give --challenge singlecoil
report nowhere
    nowhere: no such folder; give the --output of 'mrihvae run' or 'mrihvae reconstruct'
report empty
    empty: has neither run.json nor reconstruct.json; give the --output of 'mrihvae run' or 'mrihvae reconstruct'
convert full.h5 full.jpg
    full.jpg: unknown suffix; choose one of ...
convert scan.h5 scan.nii
    scan.h5: is undersampled, so it has no images yet; run 'mrihvae reconstruct', and convert its output

# training, simulation and restoration
simulate empty -o out
    empty: no NIfTI volume, JPEG or PNG picture in it; give ...
simulate photo.png -o notes.txt
    notes.txt: cannot be written (it is a file); choose another --output
train -o out
    PATH: nothing to train on; give data, or --protocol NAME and --data DIR
train targets -o out --resume
    out/checkpoint.safetensors: file not found, so there is nothing to resume; leave out --resume to start anew
train targets -o out --settings settings.json
    settings.json, training: unknown setting 'step'; the nearest known one is 'steps'
adapt -o out
    SCANS: nothing to adapt to; give files with undersampled k-space, or folders of them
adapt full.h5 -o out
    full.h5: is fully sampled; train on such scans with 'mrihvae train', which learns more from them
adapt notes.txt -o out
    notes.txt: unrecognized format; give ...
restore photo.png --task deblur -o out
    --task deblur: needs --kernel-width or --kernel; add it
restore photo.png --task denoise --factor 2 -o out
    --factor: only applies to --task superresolve, not denoise; leave it out
restore text.h5 --task denoise -o out
    text.h5: ends in none of ...; give an image ...
sample -o out --seed -1
    --seed -1: must be at least 0
"""


def read_table(text: str) -> list[tuple[str, str]]:
    """Read commands and their messages, which may go on in further lines."""
    rows = re.findall(r"^(\w[^\n]*)\n((?:    [^\n]+\n)+)", text, re.MULTILINE)
    return [(command, " ".join(message.split())) for command, message in rows]


TABLE = read_table(MISTAKES)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder, from which commands are called."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    """Make the files that a command names, and call it; return status, standard output and lines of standard error."""
    for word in command.split():
        name = word.partition("/")[0]
        if name in FILES and not Path(name).exists():
            FILES[name](Path(name))
    capsys.readouterr()
    status = main(command.split())
    shown = capsys.readouterr()
    return status, shown.out, [line for line in shown.err.splitlines() if line.strip() and "%|" not in line]


def pattern_of(message: str) -> str:
    """Return the regular expression of a message in the table."""
    return ".*".join(map(re.escape, message.split("...")))


@pytest.mark.parametrize(("command", "message"), TABLE, ids=[command for command, _ in TABLE])
def test_a_mistake_is_one_line(command: str, message: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, lines = call(command, capsys)
    assert status == 2 and out == "" and len(lines) == 1
    assert re.fullmatch(pattern_of(f"mrihvae: error: {message}"), lines[0].lstrip()), lines[0]
    assert not (desk / "out").exists()


def test_table_is_long_enough() -> None:
    assert len(TABLE) >= 30 and len({command for command, _ in TABLE}) == len(TABLE)


def test_some_failed(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stray file in a folder is said to have failed; hidden ones, and those of other kinds, are left alone."""
    status, out, lines = call("reconstruct mixed -o out --method zero-filled", capsys)
    assert status == 1 and out.startswith("a.h5: 2 slices, R = 1.82, ")
    assert re.fullmatch(
        pattern_of("mrihvae: error: mixed/b.h5: truncated or not an HDF5 file (...); copy it again"), lines[0]
    )
    assert lines[1:] == ["1 of 2 reconstructed, 1 failed: out/reconstructions; next: mrihvae report out"]


def test_quiet_prints_errors_alone(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, lines = call("reconstruct mixed -o out --method zero-filled -q", capsys)
    assert status == 1 and out == "" and len(lines) == 1 and lines[0].startswith("mrihvae: error: mixed/b.h5: ")
    status, out, lines = call("reconstruct corner.h5 -o wrong --method zero-filled -q", capsys)
    assert status == 2 and out == "" and len(lines) == 1 and lines[0].startswith("mrihvae: error: corner.h5: ")
    assert call("reconstruct scan.h5 -o again --method zero-filled -q", capsys) == (0, "", [])
    assert call("report again -q", capsys) == (0, "", []) and (desk / "again" / "report.html").is_file()


def test_verbose_prints_settings_stages_and_warnings(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, lines = call("reconstruct coils.h5 -o out --method sense -v", capsys)
    assert status == 0 and lines[-1] == "1 of 1 reconstructed: out/reconstructions; next: mrihvae report out"
    assert 'method: "sense"' in out.splitlines()
    assert re.search(r"^  maps: \d+\.\d{4} s per slice$", out, re.MULTILINE)
