"""Options of commands. Whether the installation is sound."""

from __future__ import annotations

from mrihvae.cli.sections import RESULTS, Options


class Doctor(Options):
    """check the installation: weights, packages, devices, limits, and the reconstruction of a phantom

    It takes a few seconds and writes no files. The exit status is 1 if something is wrong.

    Examples:
      mrihvae doctor
      mrihvae doctor --json > doctor.json
    """

    json: bool = RESULTS("print one JSON object, for programs", False)
