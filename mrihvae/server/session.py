"""Reconstruction while the scan runs: messages in, and images out as soon as the lines of a slice are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
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
from mrihvae.io.mrd.messages import Config, Header, Message, Note, ReceivedImage, StreamError
from mrihvae.io.mrd.sorter import Slice, SliceAssembler
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.recon.methods import HybridMethod, Method, ModelMethod
from mrihvae.recon.reconstruction import Reconstruction
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import fit_method, reconstruct_scan, sample_volume
from mrihvae.server.budget import Account
from mrihvae.server.engine import Engine
from mrihvae.server.received import LARGEST, denoise
from mrihvae.server.series import UNCERTAINTY, ScanSeries
from mrihvae.utils.memory import is_out_of_memory
from mrihvae.utils.notices import DistinctWarnings, collect_notices

NAME = "stream"  # of scans that have no file
BATCH = 8
NUMBER_BYTES = 8  # of a k-space sample
ZERO_FILLED = "zero-filled"
Check = Callable[[], object]  # raises ConnectionError if the client has gone
Images = list[tuple[str, np.ndarray, str]]  # kind, pixels, float32 (h, w) or complex64, and what made them


class Replies(Protocol):
    """Where answers go."""

    def image(self, image: ismrmrd.Image | ReceivedImage) -> None:
        """Send an image."""

    def text(self, text: str) -> None:
        """Send a text."""


def reconstruct_stream(
    messages: Iterable[Message], engine: Engine, replies: Replies, check: Check = lambda: None
) -> int:
    """Reconstruct a scan from its messages, and return the number of images that were sent.

    Parameters
    ----------
    messages : as `mrihvae.io.mrd.read_messages` gives them, to the end of the scan
    engine : methods and limits of the server
    replies : receives images and texts
    check : called before each image is computed; raises ConnectionError if nobody waits for it any more

    Raises
    ------
    InputError
        Messages, lines or parameters that are wrong, or slices that cannot be reconstructed.
    """
    stream = Session(engine, replies, check)
    try:
        for message in messages:
            if isinstance(message, Header):
                stream.open(message.xml)
            elif isinstance(message, Config | Note):
                stream.configure(message.text)
            elif isinstance(message, ReceivedImage):
                stream.pass_image(message)
            else:
                stream.add(message)
        return stream.close()
    finally:
        stream.account.hold(0)


class Session:
    """A stream while its messages arrive: the request, lines so far and the series of images.

    Images need no header that can be read: clients that have nothing but images send anything.
    """

    def __init__(self, engine: Engine, replies: Replies, check: Check) -> None:
        self.request, self.engine, self.replies, self.check = engine.request, engine, replies, check
        self.account = Account(engine.budget)
        self.sorter: SliceAssembler | None = None
        self.series: ScanSeries | None = None
        self.refusal: InputError | None = None  # of the header
        self.warned = DistinctWarnings()
        self.held: list[str] = []  # warnings before the header
        self._methods: dict[tuple[str | int, ...], Method] = {}  # fitted, by name and the indices of a volume
        self.slices = self.images = self.passed = 0

    def open(self, xml: str) -> None:
        """Begin the scan of a header; what is wrong with it is raised where lines need it."""
        if self.sorter is not None or self.refusal is not None:
            raise StreamError("stream: a second header within a scan; open another connection for another scan")
        try:
            header = parse_header(xml)
        except InputError as error:
            self.refusal = error
            return
        with collect_notices() as notices:
            self.request = self.request.from_header(header.parameters)
        try:
            self.sorter = _sorter(header, self.engine)
        except InputError as error:
            self.refusal = error
        self._warn(self.held + notices)

    def configure(self, text: str) -> None:
        """Read parameters or a configuration; an error if they change the request once an image was made."""
        with collect_notices() as notices:
            request = self.request.from_text(text)
        if (self.slices or self.passed) and request != self.request:
            raise StreamError("stream: parameters came after the first image; send them before the lines")
        self.request = request
        if self.sorter is None:
            self.held += notices
        else:
            self._warn(notices)

    def add(self, line: ismrmrd.Acquisition) -> None:
        """Take a line of k-space, and send the images that it completes."""
        if self.refusal is not None:
            raise self.refusal
        if self.sorter is None:
            raise StreamError("stream: a line came before the header; send configuration and header first")
        self._series(self.sorter).order.add(line)
        self._reconstruct(self.sorter, self.sorter.add(line))

    def pass_image(self, image: ReceivedImage) -> None:
        """Send an image of the client's back, denoised if that was requested."""
        self._warn(self.held)
        if self.request.denoise:
            self.account.hold(self._kspace_bytes() + image.data.nbytes)
            image, notices = self.engine.run(partial(self._denoise, image))
            self._warn(notices)
            self.account.hold(self._kspace_bytes())
        self.replies.image(image)
        self.images, self.passed = self.images + 1, self.passed + 1

    def close(self) -> int:
        """Send the remaining images, report how the scan ended, and return the number of images.

        Raises
        ------
        InputError
            A header that cannot be read, or is refused, if nothing but it came.
        """
        if self.refusal is not None and not self.passed:
            raise self.refusal
        if self.sorter is not None:
            self._end(self.sorter)
        for text in self.warned.left_out():
            self.replies.text(f"WARNING mrihvae: {text}")
        return self.images

    def _end(self, sorter: SliceAssembler) -> None:
        """Reconstruct the remaining slices, and report what is doubtful about the scan."""
        self._reconstruct(sorter, sorter.end())
        if sorter.late:
            self._warn([f"lines that came after their slice was complete, and were not used: {sorter.late}"])
        self._warn(sorter.warnings)
        if not self.images:
            self._warn(["the scan had no image lines"])
        if self.series is not None and not self.series.order.is_anatomical:
            self._warn(["slices and their images are numbered in order of acquisition; sort them by position"])

    def _kspace_bytes(self) -> int:
        """Return how much k-space is held of slices that are not complete."""
        return 0 if self.sorter is None else NUMBER_BYTES * self.sorter.held

    def _warn(self, texts: list[str]) -> None:
        """Send warnings, each once in a scan, and few that are alike."""
        for text in texts:
            if self.warned.add(text):
                self.replies.text(f"WARNING mrihvae: {text}")

    def _series(self, sorter: SliceAssembler) -> ScanSeries:
        """Return the series of the scan's images."""
        if self.series is None:
            self.series = ScanSeries(sorter.header)
        return self.series

    def _denoise(self, image: ReceivedImage) -> tuple[ReceivedImage, list[str]]:
        """Denoise an image: the image, and warnings, which are of the thread that computes."""
        self.check()
        with collect_notices() as notices:
            return denoise(image, self.engine.device), notices

    def _reconstruct(self, sorter: SliceAssembler, slices: list[Slice]) -> None:
        """Reconstruct slices, and send them."""
        self.account.hold(self._kspace_bytes() + sum(slice_.kspace.nbytes for slice_ in slices))
        for slice_ in slices:
            began, key = time.perf_counter(), slice_.key
            scan = scan_of(slice_, sorter.header, NAME, sorter.noise)
            mask = mask_of(scan, None)
            self._warn(sorter.warnings)
            images, notices = self.engine.run(partial(self._images, scan, mask, tuple(map(int, key[:-1]))))
            self._warn(notices)
            self.slices += 1
            summary = f"R = {effective_acceleration(mask):.2f}"
            for place, (kind, pixels, made_by) in enumerate(images):
                about = ", standard deviation" if kind == UNCERTAINTY else ""
                image = self._series(sorter).image(
                    kind, (place, len(images)), pixels, slice_, f"{made_by}, {summary}{about}", self.request.pixels
                )
                self.replies.image(image)
            self.images += len(images)
            self.replies.text(
                f"INFO mrihvae: slice {key.slice}, contrast {key.contrast}, repetition {key.repetition}: "
                f"{summary}, {time.perf_counter() - began:.2f} s"
            )

    def _images(self, scan: Scan, mask: np.ndarray, volume: tuple[int, ...]) -> tuple[Images, list[str]]:
        """Reconstruct a slice of a volume: images and warnings."""
        self.check()
        engine, request = self.engine, self.request
        method, complex_image = self._fitted(scan, mask, volume), request.pixels == "complex"
        images: Images = []
        reconstruct = partial(reconstruct_scan, scan, mask, batch_size=BATCH, complex_image=complex_image)
        try:
            with torch.no_grad(), collect_notices() as notices:
                sampling, drawn = method, None
                if request.uncertainty:
                    usual = replace(request, method="hybrid")
                    sampling = method if isinstance(method, HybridMethod) else engine.method(scan.coils, usual)
                    drawn = sample_volume(scan, mask, sampling, 0, BATCH, complex_image=complex_image)
                    self.check()
                found = reconstruct(method) if drawn is None or sampling is not method else drawn
                images.append((method.name, _slice_of(found, complex_image), _made_by(method)))
                images += [] if drawn is None else [(UNCERTAINTY, np.asarray(drawn.std)[0], _made_by(sampling))]
                if request.zerofilled and method.name != ZERO_FILLED:
                    plain = engine.method(scan.coils, replace(request, method=ZERO_FILLED))
                    images.append((ZERO_FILLED, _slice_of(reconstruct(plain), complex_image), _made_by(plain)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = " x ".join(map(str, scan.kspace.shape[1:]))
            raise InputError(f"stream: too little memory for a slice of {size}") from error
        if not all(np.isfinite(pixels).all() for _, pixels, _ in images):
            raise InputError("stream: a reconstruction is not finite; the scan may be damaged")
        return images, notices

    def _fitted(self, scan: Scan, mask: np.ndarray, volume: tuple[int, ...]) -> Method:
        """Return the requested method, fitted to the first slice of a volume: as files are, if it has no other."""
        key: tuple[str | int, ...] = (self.request.method, *volume)
        if key not in self._methods:
            self._methods[key] = fit_method(scan, mask, self.engine.method(scan.coils, self.request))
        return self._methods[key]


def _sorter(header: ScanHeader, engine: Engine) -> SliceAssembler:
    """Return what sorts the lines of a scan; an error if slices are too large."""
    for encoding in header.encodings:
        height, width = encoding.imaged_size(0), encoding.encoded.matrix[1]
        if height * width > LARGEST:
            raise InputError(
                f"stream: slices of {height} x {width} are larger than {LARGEST} pixels; the header may be damaged"
            )
    return SliceAssembler(header, max_held=engine.max_held)


def _slice_of(found: Reconstruction, complex_image: bool) -> np.ndarray:
    """Return a single slice: float32 (h, w), or complex64, of coils that are not combined (coil, h, w)."""
    return np.asarray(found.image if complex_image else found.magnitude)[0]  # type: ignore[no-any-return]


def _made_by(method: Method) -> str:
    """Describe the version and weights that made an image."""
    weights = method.weights[:12] if isinstance(method, ModelMethod) else ""
    return f"mrihvae {__version__}" + (f", weights {weights}" if weights else "")
