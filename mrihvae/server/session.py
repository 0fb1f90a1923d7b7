"""Reconstruction while the scan runs: messages in, and images out as soon as the lines of a slice are there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import ismrmrd
import numpy as np
import torch

from mrihvae import __version__
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.mrd.files import scan_of
from mrihvae.io.mrd.header import ScanHeader, parse_header
from mrihvae.io.mrd.images import ImageSeries
from mrihvae.io.mrd.messages import Config, Header, Message, Note, StreamError
from mrihvae.io.mrd.sorter import MAX_HELD_NUMBERS, Slice, SliceAssembler
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.protocols.evaluation import find_protocol, read_protocol
from mrihvae.recon.methods import HybridMethod, Method, ModelMethod, change_method, load_method
from mrihvae.recon.settings import DEFAULT_SAMPLES
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume, sample_volume
from mrihvae.server.request import Request
from mrihvae.utils.memory import is_out_of_memory
from mrihvae.utils.notices import collect_notices

NAME = "stream"  # of scans that have no file
SEVERAL = 2  # coils: how many is all the same from here on
BATCH = 8
LARGEST = 2**22  # pixels of a slice: more, as in a damaged header, would take all memory
TITLE = 64  # letters of a protocol's name that series show
USUAL = Request()


class Replies(Protocol):
    """Where answers go."""

    def image(self, image: ismrmrd.Image) -> None:
        """Send an image."""

    def text(self, text: str) -> None:
        """Send a text."""


@dataclass(frozen=True)
class Engine:
    """The methods of a server, with weights that are loaded, by the number of coils: 1, or 2 for several.

    Attributes
    ----------
    methods : the default ones
    request : what a scan gets that requests nothing else
    max_held : number of k-space samples of a scan that may be held in memory
    executor : reconstructs slices of several connections one after another; None for the calling thread. Each thread
        that reconstructs keeps memory of its own
    """

    methods: dict[int, Method]
    request: Request = USUAL
    max_held: int = MAX_HELD_NUMBERS
    executor: Executor | None = None

    def method(self, coils: int, request: Request) -> Method:
        """Choose the method for a scan."""
        kind = min(coils, SEVERAL)
        if kind not in self.methods:
            raise InputError(
                f"scan of {coils} {'coil' if coils == 1 else 'coils'}: the server's protocol is for others; start it "
                "with another, or without one"
            )
        return change_method(self.methods[kind], request.method, request.samples)


def load_engine(protocol: str | None, device: str = "cpu") -> Engine:
    """Return an engine with the weights of a protocol, or with the shipped ones for one coil and for several.

    Raises
    ------
    InputError
        Protocol, weights or device that cannot be used.
    """
    if protocol is None:
        return Engine({kind: load_method(device=device, several_coils=kind > 1) for kind in (1, SEVERAL)})
    chosen = read_protocol(find_protocol(protocol))
    kind = 1 if chosen.challenge == "singlecoil" else SEVERAL
    method = chosen.load(device)
    usual = method.samples if isinstance(method, HybridMethod) else DEFAULT_SAMPLES
    return Engine({kind: method}, Request(samples=max(2, usual)))


def warm_up(engine: Engine) -> None:
    """Reconstruct noise once with each method, for the first slice takes longer than those after it."""
    lines = np.zeros(64, bool)
    lines[::3] = lines[26:38] = True
    for kind, method in engine.methods.items():
        noise = (
            np.random.default_rng(0).standard_normal((1, 4, 64, 64, 2)).astype(np.float32).view(np.complex64)[..., 0]
        )
        scan = Scan(NAME, noise if kind == SEVERAL else noise[:, 0], lines)
        reconstruct_volume(scan, mask_of(scan, None), method)


def reconstruct_stream(messages: Iterable[Message], engine: Engine, replies: Replies) -> int:
    """Reconstruct a scan from its messages, and return the number of its images.

    Parameters
    ----------
    messages : as `mrihvae.io.mrd.read_messages` gives them, to the end of the scan
    engine : methods and limits of the server
    replies : receives images and texts

    Raises
    ------
    InputError
        Messages, lines or parameters that are wrong, or slices that cannot be reconstructed.
    """
    request, scan = engine.request, None
    for message in messages:
        if isinstance(message, Header):
            if scan is not None:
                raise StreamError("stream: a second header within a scan; open another connection for another scan")
            header = parse_header(message.xml)
            scan = ScanSession(header, request.from_header(header.parameters), engine, replies)
        elif isinstance(message, Config | Note):
            request = request.from_text(message.text)
            if scan is not None:
                scan.configure(scan.request.from_text(message.text))
        elif scan is None:
            raise StreamError("stream: a line came before the header; send configuration and header first")
        else:
            scan.reconstruct(scan.sorter.add(message))
    if scan is None:
        return 0
    scan.reconstruct(scan.sorter.end())
    return scan.close()


class ScanSession:
    """A scan while its messages arrive: its request, its lines so far and the series of its images."""

    def __init__(self, header: ScanHeader, request: Request, engine: Engine, replies: Replies) -> None:
        self.header, self.request, self.engine, self.replies = header, request, engine, replies
        for encoding in header.encodings:
            height, width = encoding.imaged_size(0), encoding.encoded.matrix[1]
            if height * width > LARGEST:
                raise InputError(
                    f"stream: slices of {height} x {width} are larger than {LARGEST} pixels; the header may be damaged"
                )
        self.sorter = SliceAssembler(header, max_held=engine.max_held)
        self.warned: list[str] = []
        self.series: dict[tuple[str, tuple[int, int]], ImageSeries] = {}
        self.slices = self.images = 0

    def configure(self, request: Request) -> None:
        """Replace the request; an error once an image was reconstructed."""
        if self.slices and request != self.request:
            raise StreamError("stream: parameters came after the first image; send them before the lines")
        self.request = request

    def reconstruct(self, slices: list[Slice]) -> None:
        """Reconstruct slices, and send them."""
        for slice_ in slices:
            began, key = time.perf_counter(), slice_.key
            scan = scan_of(slice_, self.header, NAME, self.sorter.noise)
            mask = mask_of(scan, None)
            summary = f"R = {effective_acceleration(mask):.2f}"
            for text in self.sorter.warnings:
                self._warn(text)
            work, executor = partial(self._reconstruct_slice, scan, mask), self.engine.executor
            magnitude, deviation, notices = work() if executor is None else executor.submit(work).result()
            for text in notices:
                self._warn(text)
            self.slices += 1
            method = self.engine.method(scan.coils, self.request)
            self._send(method.name, magnitude, slice_, f"{_made_by(method)}, {summary}")
            if deviation is not None:
                made_by = _made_by(self._sampling(scan))
                self._send("uncertainty", deviation, slice_, f"{made_by}, {summary}, standard deviation")
            self.replies.text(
                f"INFO mrihvae: slice {key.slice}, contrast {key.contrast}, repetition {key.repetition}: "
                f"{summary}, {time.perf_counter() - began:.2f} s"
            )

    def close(self) -> int:
        """Report how the scan ended, and return the number of images."""
        if self.sorter.late:
            late = f"lines that came after their slice was complete, and were not used: {self.sorter.late}"
            self.replies.text(f"WARNING mrihvae: {late}")
        if not self.slices:
            self.replies.text("WARNING mrihvae: the scan had no line of an image")
        return self.images

    def _warn(self, text: str) -> None:
        """Send a warning, once in a scan."""
        if text not in self.warned:
            self.warned.append(text)
            self.replies.text(f"WARNING mrihvae: {text}")

    def _reconstruct_slice(self, scan: Scan, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
        """Reconstruct a single slice: magnitude (h, w), its standard deviation if requested, and warnings."""
        method = self.engine.method(scan.coils, self.request)
        try:
            with torch.no_grad(), collect_notices() as notices:
                image, deviation = reconstruct_volume(scan, mask, method, BATCH)[0], None
                if self.request.uncertainty:
                    std = sample_volume(scan, mask, self._sampling(scan), 0, BATCH).std
                    deviation = None if std is None else std[0]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = " x ".join(map(str, scan.kspace.shape[1:]))
            raise InputError(f"stream: too little memory for a slice of {size}") from error
        if not (np.isfinite(image).all() and (deviation is None or np.isfinite(deviation).all())):
            raise InputError("stream: a reconstruction is not finite; the scan may be damaged")
        return image, deviation, notices

    def _sampling(self, scan: Scan) -> Method:
        """Choose the method that draws the posterior samples of a scan."""
        return self.engine.method(scan.coils, replace(self.request, method="samples"))

    def _send(self, kind: str, pixels: np.ndarray, slice_: Slice, comment: str) -> None:
        """Send an image in the series of its kind and shape."""
        shape = (pixels.shape[0], pixels.shape[1])
        if (kind, shape) not in self.series:
            role = ["Image", "Uncertainty"] if kind == "uncertainty" else ["Image"]
            description = f"{self.header.protocol[:TITLE] or 'scan'} mrihvae {kind}"
            self.series[kind, shape] = ImageSeries(
                len(self.series) + 1, description, role, ["MRIHVAE", kind], self.request.pixels == "short"
            )
        self.replies.image(self.series[kind, shape].image(pixels, slice_, comment))
        self.images += 1


def _made_by(method: Method) -> str:
    """Describe the version and weights that made an image."""
    weights = method.weights[:12] if isinstance(method, ModelMethod) else ""
    return f"mrihvae {__version__}" + (f", weights {weights}" if weights else "")
