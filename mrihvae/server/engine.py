"""What a server reconstructs with: methods whose weights are loaded once, and the memory that all scans share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.mrd.sorter import MAX_HELD_NUMBERS
from mrihvae.protocols.evaluation import find_protocol, read_protocol
from mrihvae.recon.catalog import change_method, load_method
from mrihvae.recon.methods import HybridMethod, Method
from mrihvae.recon.settings import DEFAULT_SAMPLES
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.server.budget import Budget
from mrihvae.server.request import Request

SEVERAL = 2  # coils: how many is all the same from here on
T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """The methods of a server, with weights that are loaded, by the number of coils: 1, or 2 for several.

    Attributes
    ----------
    methods : the default ones
    request : what a scan gets that requests nothing else
    max_held : number of k-space samples of a scan that may be held in memory
    budget : counts the bytes that are held for all scans together
    executor : reconstructs slices of several connections one after another; None for the calling thread. Each thread
        that reconstructs keeps memory of its own
    device : on which images that clients send are denoised
    """

    methods: dict[int, Method]
    request: Request = field(default_factory=Request)
    max_held: int = MAX_HELD_NUMBERS
    budget: Budget = field(default_factory=Budget)
    executor: Executor | None = None
    device: str = "cpu"

    def run(self, work: Callable[[], T]) -> T:
        """Do something in the thread that computes."""
        return work() if self.executor is None else self.executor.submit(work).result()

    def method(self, coils: int, request: Request) -> Method:
        """Choose the method for a scan."""
        kind = min(coils, SEVERAL)
        if kind not in self.methods:
            raise InputError(
                f"scan of {coils} {'coil' if coils == 1 else 'coils'}: the server's protocol does not support this "
                "number of coils; start it with another, or without one"
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
        methods = {kind: load_method(device=device, several_coils=kind > 1) for kind in (1, SEVERAL)}
        return Engine(methods, device=device)
    chosen = read_protocol(find_protocol(protocol))
    kind = 1 if chosen.challenge == "singlecoil" else SEVERAL
    method = chosen.load(device)
    usual = method.samples if isinstance(method, HybridMethod) else DEFAULT_SAMPLES
    return Engine({kind: method}, Request(samples=max(2, usual)), device=device)


def warm_up(engine: Engine) -> None:
    """Reconstruct noise once with each method, for the first slice takes longer than those after it."""
    lines = np.zeros(64, bool)
    lines[::3] = lines[26:38] = True
    for kind, method in engine.methods.items():
        noise = (
            np.random.default_rng(0).standard_normal((1, 4, 64, 64, 2)).astype(np.float32).view(np.complex64)[..., 0]
        )
        scan = Scan("noise", noise if kind == SEVERAL else noise[:, 0], lines)
        reconstruct_scan(scan, mask_of(scan, None), method)
