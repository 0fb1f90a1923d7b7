"""Small good files of every format that is read, from which damaged ones are made: file names and their bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from mrihvae.data.scan import Scan
from mrihvae.data.volume import ImageVolume
from mrihvae.datasets.mixture import PACKED_FORMAT
from mrihvae.io.bart import write_cfl
from mrihvae.io.npy import save_numpy
from mrihvae.io.write_images import write_volume
from mrihvae.model.digests import BLANK, KEY
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import save_weights
from mrihvae.protocols.evaluation import protocol_folder
from mrihvae.recon.convert import save
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import Run, TrainSettings, save_checkpoint
from tests.support import mrd, twix
from tests.support.dicom import enhance, marked_volume
from tests.support.files import PROTOCOL, complex_normal, write_scan
from tests.support.mrd.v2 import acquisition_v2, header_v2, image_v2, stream_v2
from tests.support.small import small_model
from tests.support.stored_images import Stored, marked, store

Files = Mapping[str, bytes]  # the first is the one that is opened

HEIGHT, WIDTH = 24, 20
LINES = np.abs(np.arange(WIDTH) - WIDTH // 2) < 6  # acquired in undersampled scans
TINY = ModelSettings(widths=(16, 16), layers=1, cascades=1, guess_widths=(16, 16), guess_memory=1)
ATTRIBUTES = {"acceleration": 2, "voxel_size": [1.0, 1.0, 5.0], "max": 1.0, "norm": 2.0}


def fastmri(folder: Path) -> list[Files]:
    """Scans of one coil and of several, with a mask, maps, calibration and noise."""
    some = np.where(LINES, complex_normal((2, 3, HEIGHT, WIDTH)), 0).astype(np.complex64)
    maps = complex_normal((1, 3, HEIGHT, WIDTH))
    noise = complex_normal((3, 40), seed=1)
    return [
        _read(write_scan(folder / "scan.h5", attributes=ATTRIBUTES)),
        _read(write_scan(folder / "scan.h5", kspace=some[:, 0], mask=LINES)),
        _read(write_scan(folder / "scan.h5", some.shape, kspace=some, mask=LINES, sensitivity_maps=maps, noise=noise)),
    ]


def reconstructions(folder: Path) -> list[Files]:
    """Images in HDF5, with geometry, uncertainty and samples."""
    volume = _volume()
    sampled = ImageVolume(volume.pixels, volume.geometry, {"method": "hybrid"}, "reconstruction", None, volume.pixels)
    return [_written(folder / "images.h5", one, ".h5") for one in (volume, sampled)]


def mrd_scans(folder: Path) -> list[Files]:
    """Lines of one coil and of two, with a noise scan, and repetitions."""
    found = []
    for number, (coils, repetitions) in enumerate(((1, 1), (2, 1), (1, 2))):
        shape = (2, coils, 16, 12)
        lines = mrd.cartesian_lines(complex_normal(shape), noise_scans=coils - 1, repetitions=repetitions)
        path = folder / f"scan{number}.h5"
        mrd.write_mrd(path, mrd.cartesian_xml(shape, repetitions=repetitions), lines)
        found.append({"scan.h5": path.read_bytes()})
    return found


def mrd_images(folder: Path) -> list[Files]:
    """Images as clients of a server store them, of one series and of two."""
    meta = {"DataRole": "Image", "SeriesDescription": "t1", "RescaleSlope": "0.5"}
    plain = [Stored(marked(k), 5.0 * k, meta=meta) for k in range(3)]
    other = [Stored(marked(k, np.int16), 5.0 * k, 1, header={"contrast": k}) for k in range(2)]
    written = _written(folder / "ours.mrd", _volume(), ".mrd")
    found = [_read(store(folder / f"{k}.h5", images)) for k, images in enumerate((plain, plain + other))]
    return [{"images.h5": next(iter(files.values()))} for files in (*found, written)]


def streams(folder: Path) -> list[Files]:
    """Scans as scanners send them, of one coil and of two, and images."""
    del folder
    found = []
    for coils in (1, 2):
        shape = (2, coils, 16, 12)
        lines = mrd.cartesian_lines(complex_normal(shape), noise_scans=coils - 1)
        waves = [mrd.waveform(np.arange(12).reshape(3, 4))]
        payload = mrd.stream(mrd.cartesian_xml(shape), lines, "zero-filled", {"pixels": "short"}, waveforms=waves)
        found.append({"scan.mrd": payload})
    picture = mrd.Image(np.ones((1, 1, 12, 16), np.float32))
    received = [mrd.config_file("denoise"), mrd.header("<x/>"), mrd.image(picture), mrd.close()]
    return [*found, {"scan.mrd": b"".join(received)}]


def streams_v2(folder: Path) -> list[Files]:
    """A scan and an image in MRD version 2."""
    del folder
    lines = mrd.cartesian_lines(complex_normal((2, 1, 16, 12)))
    items = [acquisition_v2(line) for line in lines]
    picture = image_v2(mrd.Image(np.ones((1, 1, 12, 16), np.float32)), DataRole="Image")
    header = header_v2((32, 12), 12)
    return [{"scan.mrd": stream_v2(header, one)} for one in (items, [picture])]


def siemens(folder: Path) -> list[Files]:
    """TWIX of VB and VD, 2D and 3D."""
    del folder
    kspace = complex_normal((3, 2, 16, 12))
    noise = twix.Line(complex_normal((2, 64), seed=1), flags=(twix.NOISE,))
    found = []
    for vb in (False, True):
        lines = [noise, twix.sync(vb), *twix.cartesian(kspace, spacing_mm=6)]
        whole = twix.measurement(twix.protocol(), lines, vb)
        found.append({"scan.dat": whole if vb else twix.vd(whole)})
    slab = twix.measurement(twix.protocol((16, 12, 3), sKSpace__ucDimension=4), twix.slab(kspace))
    return [*found, {"scan.dat": twix.vd(slab)}]


def bart(folder: Path) -> list[Files]:
    """K-space and images in BART's pairs of files."""
    found = []
    for array in (complex_normal((HEIGHT, WIDTH, 1, 2)), complex_normal((HEIGHT, WIDTH)).real + 0j):
        write_cfl(folder / "scan.cfl", array.astype(np.complex64))
        found.append(_read(folder / "scan.cfl", folder / "scan.hdr"))
    return found


def numpy_arrays(folder: Path) -> list[Files]:
    """K-space with a mask, and images, in NumPy's files with JSON beside them."""
    scan = Scan("scan", np.where(LINES, complex_normal((2, 3, HEIGHT, WIDTH)), 0).astype(np.complex64), LINES)
    found = []
    for k, write in enumerate((lambda path: save(path, scan), lambda path: write_volume(path, _volume(), ".npy"))):
        write(folder / f"{k}.npy")
        found.append({f"scan.{kind}": (folder / f"{k}.{kind}").read_bytes() for kind in ("npy", "json")})
    axes = {"axes": ["H", "W"]}
    save_numpy(folder / "plain.npy", complex_normal((HEIGHT, WIDTH)), axes)
    return [*found, {f"scan.{kind}": (folder / f"plain.{kind}").read_bytes() for kind in ("npy", "json")}]


def matlab(folder: Path) -> list[Files]:
    """K-space in MATLAB's version 5."""
    kspace = complex_normal((HEIGHT, WIDTH, 3, 2))
    found = []
    for packed in (False, True):
        savemat(folder / "scan.mat", {"kspace": kspace, "mask": LINES.astype(float)}, do_compression=packed)
        data = (folder / "scan.mat").read_bytes()
        found.append({"scan.mat": data[:20].ljust(116, b" ") + data[116:]})  # without the date
    return found


def matlab_hdf5(folder: Path) -> list[Files]:
    """K-space in MATLAB's version 7.3, numbers as pairs."""
    stored = np.zeros((2, 3, WIDTH, HEIGHT), [("real", "<f8"), ("imag", "<f8")])
    stored["real"], stored["imag"] = (np.random.default_rng(k).standard_normal(stored.shape) for k in range(2))
    with h5py.File(folder / "scan.mat", "w", userblock_size=512) as file:
        file["kspace"], file["mask"] = stored, LINES.astype(float)[:, None]
        file["kspace"].attrs["MATLAB_class"] = np.bytes_("double")
    data = (folder / "scan.mat").read_bytes()
    return [{"scan.mat": b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b" ") + data[512:]}]


def dicom(folder: Path) -> list[Files]:
    """A series of files, and one file of several frames."""
    write_volume(folder / "series", marked_volume(), ".dcm")
    files = sorted((folder / "series").glob("*.dcm"))
    many = enhance(folder / "series", folder / "many.dcm")
    return [{f"{k}.dcm": file.read_bytes() for k, file in enumerate(files[:3])}, _read(many or folder / "many.dcm")]


def nifti(folder: Path) -> list[Files]:
    """Volumes as they are written, and of whole numbers."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.arange(480, dtype=np.int16).reshape(12, 10, 4), np.eye(4)), folder / "b.nii")
    first = _written(folder / "a.nii", _volume(), ".nii")
    return [{"scan.nii": next(iter(files.values()))} for files in (first, _read(folder / "b.nii"))]


def nifti_gzip(folder: Path) -> list[Files]:
    """The same in gzip."""
    return [{"scan.nii.gz": gzip.compress(files["scan.nii"], 1, mtime=0)} for files in nifti(folder)]


def _pictures(suffix: str) -> Callable[[Path], list[Files]]:
    def make(folder: Path) -> list[Files]:
        pixels = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
        kinds = [Image.fromarray(pixels), Image.fromarray(np.stack([pixels] * 3, -1))]
        kinds += [] if suffix == "jpg" else [Image.fromarray(pixels.astype(np.uint16) * 9)]
        found = []
        for one in kinds:
            exif = one.getexif()
            exif[274] = 6  # turned by 90 degrees
            one.save(folder / f"photo.{suffix}", exif=exif)
            found.append(_read(folder / f"photo.{suffix}"))
        return found

    return make


png, jpeg, tiff = _pictures("png"), _pictures("jpg"), _pictures("tif")


def kernels(folder: Path) -> list[Files]:
    """Kernels of a blur, of real and of whole numbers."""
    arrays = (np.ones((3, 5)), np.array([[0, 1, 0], [1, 2, 1], [0, 1, 0]]))
    for k, array in enumerate(arrays):
        np.save(folder / f"{k}.npy", array)
    return [{"kernel.npy": (folder / f"{k}.npy").read_bytes()} for k in range(len(arrays))]


def cifar(folder: Path) -> list[Files]:
    """CIFAR10's pictures."""
    del folder
    return [{"data_batch_1.bin": np.random.default_rng(0).bytes(2 * 3073)}]


def idx(folder: Path) -> list[Files]:
    """Pictures of MNIST and its kin, and the same in gzip."""
    del folder
    data = bytes((0, 0, 8, 3)) + np.array([3, 8, 8], ">u4").tobytes() + np.random.default_rng(0).bytes(3 * 64)
    return [{"train-images-idx3-ubyte": data}, {"train-images-idx3-ubyte.gz": gzip.compress(data, 1, mtime=0)}]


def packed(folder: Path) -> list[Files]:
    """Slices to train on, packed."""
    with h5py.File(folder / "slices.h5", "w") as file:
        file.attrs["format"] = PACKED_FORMAT
        for name in ("0", "1"):
            group = file.create_group(name)
            group.attrs.update({"path": f"some/{name}", "raw": name == "1", "weight": 1.0})
            group["16x16"] = np.ones((2, 16, 16), np.uint8 if name == "0" else np.complex64)
            group["order"] = np.array([[0, 0], [0, 1]], np.int32)
    return [_read(folder / "slices.h5")]


def weights(folder: Path) -> list[Files]:
    """Weights, with their card."""
    save_weights(folder / "w.safetensors", small_model(settings=TINY), {"data": ["a"]})
    return [_ordered(_read(folder / "w.safetensors", folder / "w.json"))]


def checkpoints(folder: Path) -> list[Files]:
    """A run that was interrupted."""
    torch.manual_seed(0)
    settings = TrainSettings(steps=9, shapes=((16, 24), (8, 8)))
    run = Run.new(TINY, settings, SimulationSettings(), "cpu")
    for parameter in run.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    run.optimizer.step()
    save_checkpoint(folder, run, {})
    return [_ordered(_read(folder / "checkpoint.safetensors"))]


def protocols(folder: Path) -> list[Files]:
    """Protocols of evaluation, training and a benchmark."""
    del folder
    names = ("fastmri_knee_multicoil_4x", "multicoil", "train_brain_multicoil", "ulf_singlecoil_4x")
    shipped = [(protocol_folder() / f"{name}.toml").read_bytes() for name in names]
    return [{"protocol.toml": data} for data in (PROTOCOL.encode(), *shipped)]


def training_settings(folder: Path) -> list[Files]:
    """Settings of training."""
    del folder
    model = {"layers": 2, "widths": [16, 16], "guess_widths": [16, 16], "cascades": 1}
    sections = {"model": model, "training": {"steps": 3, "shapes": [[16, 24]]}}
    return [{"settings.json": json.dumps({**sections, "simulation": {"rotation": 7.0}}).encode()}]


def records(folder: Path) -> list[Files]:
    """Records of a reconstruction and of a protocol that was run."""
    from mrihvae.cli.main import main

    write_scan(folder / "scan.h5", kspace=np.where(LINES, complex_normal((2, HEIGHT, WIDTH)), 0), mask=LINES)
    words = ["reconstruct", str(folder / "scan.h5"), "--output", str(folder / "out"), "--method", "zero-filled"]
    if main([*words, "--quiet"]):
        raise RuntimeError("no record")
    record = json.loads((folder / "out" / "reconstruct.json").read_text())
    record |= {"input": "scan.h5"}
    measured = {"seconds_per_slice": 0.5, "stages": {"read": 0.1}, "peak_memory_mb": 100}  # others in every run
    record["volumes"] = [row | measured for row in record["volumes"]]
    return [{"reconstruct.json": json.dumps(record, indent=1).encode()}]


def requests(folder: Path) -> list[Files]:
    """What scanners request."""
    del folder
    found = ({"method": "hybrid", "samples": 4}, {"parameters": {"config": "mrihvae", "mrihvae_pixels": "short"}})
    return [{"request.json": json.dumps(one).encode()} for one in found]


def _ordered(files: Files) -> Files:
    """Sort the header of safetensors, whose order is another one each time, and take the hash out of the card."""
    name, data = next(iter(files.items()))
    size = struct.unpack_from("<Q", data)[0]
    text = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    plain = {name: stamp(struct.pack("<Q", len(text)) + text + data[8 + size :])}
    for card in list(files)[1:]:
        values = json.loads(files[card])
        values.pop(KEY, None)
        plain[card] = json.dumps(values).encode()
    return plain


def stamp(data: bytes) -> bytes:
    """Make the hash that a safetensors file states the right one, so that more than the hash is looked at."""
    found = re.search(rb'"%s":\s*"([0-9a-f]{64})"' % KEY.encode(), data)
    if found is None:
        return data
    before, after = data[: found.start(1)], data[found.end(1) :]
    return before + hashlib.sha256(before + BLANK.encode() + after).hexdigest().encode() + after


def _volume() -> ImageVolume:
    return marked_volume()


def _written(path: Path, volume: ImageVolume, suffix: str) -> Files:
    write_volume(path, volume, suffix)
    return {path.name: path.read_bytes()}


def _read(*paths: Path) -> Files:
    """Read files, and remove them."""
    found = {path.name: path.read_bytes() for path in paths}
    for path in paths:
        path.unlink()
    return found


def make_seeds(build: Callable[[Path], list[Files]]) -> list[Files]:
    """Make the good files of a format."""
    with tempfile.TemporaryDirectory() as folder:
        return build(Path(folder))
