"""What is killed: work that is done again until it is finished, and what must hold after every kill and at the end.

A case is a class with the methods of `kill_work.Case`. Work runs in a process of its own.
"""

from __future__ import annotations

from benchmarks.robustness.kill_conversion import Conversion, FolderConversion
from benchmarks.robustness.kill_reconstruction import NetworkReconstruction, ProtocolRun, Reconstruction, Reporting
from benchmarks.robustness.kill_training import Publication, Training
from benchmarks.robustness.kill_work import Case

CASES: dict[str, type[Case]] = {
    "train": Training,
    "reconstruct, zero-filled": Reconstruction,
    "reconstruct, network": NetworkReconstruction,
    "run": ProtocolRun,
    "convert": Conversion,
    "convert a folder": FolderConversion,
    "report": Reporting,
    "publish": Publication,
}
