"""What options of several commands have in common: choices, and options with the same words everywhere."""

from __future__ import annotations

from functools import partial

from mrihvae.cli.sections import FILES, METHOD, WORKERS
from mrihvae.server.request import PIXELS
from mrihvae.utils.precision import PRECISIONS

AXES = {"W": -1, "H": -2}
CHALLENGES = {  # as fastMRI's own inference scripts call them, and the number of coils
    "singlecoil": 1, "multicoil": 2, "unet_knee_sc": 1, "unet_knee_mc": 2, "unet_brain_mc": 2, "varnet_knee_mc": 2,
    "varnet_brain_mc": 2,
}  # fmt: skip

BATCH_SIZE = partial(METHOD, "coil images reconstructed together; lower it to save memory")
CHECKPOINT = partial(METHOD, "name of shipped weights, or a .safetensors file")
DEVICE = partial(METHOD, "cpu, cuda, cuda:1, ...")
KEY = partial(FILES, "name of k-space in HDF5 or .mat files, such as ksp or group/ksp", None, "kspace")
LOG_JSON = partial(FILES, "add events to this file, one JSON object a line", None, "none")
WORKER_MEMORY = partial(WORKERS, "GiB that a local worker may hold", None, "an equal share of the machine's")
MAX_MEMORY = partial(FILES, "GiB that one array of a file may take", None, "half of the free memory")
OUTPUT = partial(FILES, alias="-o")
OVERWRITE = partial(FILES, "replace results that are in --output already", False)
PIXEL_TYPE = partial(METHOD, "type of pixels, where the scan requests none", choices=PIXELS)
PRECISION = partial(METHOD, "precision of the network; auto takes bfloat16 where that is faster", choices=PRECISIONS)
QUIET = partial(FILES, "print errors alone", False, alias="-q")
PROTOCOL = partial(METHOD, "how to reconstruct: a protocol's name or file", None, "the usual way")
RESUME = partial(FILES, "resume an interrupted run: skip what is in --output already", False)
SCHEDULER = partial(WORKERS, "address of a Dask scheduler, whose workers do the volumes", None, "none")
THREADS = partial(WORKERS, "threads of each worker", None, "1")
UNCENTERED = partial(FILES, "k-space was stored with DC at [0, 0], without fftshift", False)
VERBOSE = partial(FILES, "print settings, seconds of every stage, and all warnings of every file", False, alias="-v")
WORKERS_COUNT = partial(WORKERS, "local processes that do volumes at the same time", None, "none", metavar="N")
