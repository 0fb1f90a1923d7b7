"""What options of several commands have in common: choices, and options with the same words everywhere."""

from __future__ import annotations

from functools import partial

from mrihvae.cli.sections import INPUT, METHOD, RESULTS, WORKERS
from mrihvae.server.request import PIXELS
from mrihvae.utils.precision import PRECISIONS

AXES = {"W": -1, "H": -2}
CHALLENGES = {  # as fastMRI's own inference scripts call them, and the number of coils
    "singlecoil": 1, "multicoil": 2, "unet_knee_sc": 1, "unet_knee_mc": 2, "unet_brain_mc": 2, "varnet_knee_mc": 2,
    "varnet_brain_mc": 2,
}  # fmt: skip

BATCH_SIZE = partial(METHOD, "number of coil images reconstructed together; lower it to save memory")
CHECKPOINT = partial(METHOD, "weights: the name of shipped ones, or a .safetensors file")
DEVICE = partial(METHOD, "where to compute: cpu, cuda, cuda:1, ...")
KEY = partial(INPUT, "name of the k-space dataset in HDF5 or .mat files, such as ksp or group/ksp", None, "kspace")
LOG_JSON = partial(RESULTS, "append a log to this file: one JSON object per line, for programs", None, "no log")
WORKER_MEMORY = partial(WORKERS, "memory limit of each local worker, in GiB", None, "an equal share")
MAX_MEMORY = partial(INPUT, "memory limit of one array of a file, in GiB", None, "half of the free memory")
OUTPUT = partial(RESULTS, alias="-o")
OVERWRITE = partial(RESULTS, "replace results that are already there", False)
PIXEL_TYPE = partial(METHOD, "pixel type of the images, unless the scan requests another", choices=PIXELS)
PRECISION = partial(METHOD, "precision of the network; auto uses bfloat16 where that is faster", choices=PRECISIONS)
QUIET = partial(RESULTS, "print nothing but errors", False, alias="-q")
PROTOCOL = partial(METHOD, "how to reconstruct: the name or file of a protocol", None, "hybrid, as mrihvae reconstruct")
RESUME = partial(RESULTS, "resume an interrupted run: skip results that are already there", False)
SCHEDULER = partial(WORKERS, "address of a Dask scheduler, whose workers reconstruct the volumes", None, "no scheduler")
THREADS = partial(WORKERS, "CPU threads of each worker", None, "1")
UNCENTERED = partial(INPUT, "k-space is stored with DC at [0, 0], that is, without fftshift", False)
VERBOSE = partial(RESULTS, "print settings, the time of every stage, and all warnings of every file", False, alias="-v")
WORKERS_COUNT = partial(
    WORKERS,
    "number of local processes; each reconstructs one volume at a time",
    None,
    "this process alone",
    metavar="N",
)
