"""Settings of adapting to undersampled scans; without torch, for options."""

from __future__ import annotations

from dataclasses import dataclass

from mrihvae.errors import InputError

FEWEST_SLICES = 5  # below, the check has no slices of its own


@dataclass(frozen=True)
class AdaptSettings:
    """Settings of adapting.

    Attributes
    ----------
    steps : maximum number of optimizer steps of the whole run
    learning_rate : after `warmup` steps, and from then on
    warmup : steps over which the learning rate rises
    held_out : share of the acquired samples outside of the calibration region that a step holds out
    check_share : share of them that is never trained on, in the slices that are checked
    check_slices : share of the slices that are not trained on at all, if there are at least `FEWEST_SLICES`
    most_checked : slices that are checked at most, half of them such that are not trained on
    check_every : steps between checks
    patience : checks without a better one, after which a run ends
    second_every : every n-th step gives r its own reconstruction as the guess (a second round); 0 for none
    ema : decay of the averaged weights, which are checked
    clip : largest norm of a gradient
    seed : seed of all random choices
    """

    steps: int = 400
    learning_rate: float = 3e-4
    warmup: int = 10
    held_out: float = 0.2
    check_share: float = 0.2
    check_slices: float = 0.2
    most_checked: int = 8
    check_every: int = 20
    patience: int = 5
    second_every: int = 3
    ema: float = 0.95
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.check_every, self.patience, self.most_checked) < 1:
            raise InputError("steps, check_every, patience and most_checked must be at least 1")
        if min(self.warmup, self.second_every, self.seed) < 0:
            raise InputError("warmup, second_every and seed must be at least 0")
        if not (self.learning_rate > 0 and self.clip > 0 and 0 < self.ema < 1):
            raise InputError("learning_rate and clip must be above 0, and ema in (0, 1)")
        if not (0 < self.held_out < 1 and 0 < self.check_share < 1 and 0 <= self.check_slices < 1):
            raise InputError("held_out and check_share must be in (0, 1), and check_slices in [0, 1)")
