"""What the words of a report mean, for its tooltips and its glossary."""

from __future__ import annotations

SCORES = {
    "R": "Effective acceleration: the number of k-space samples of a fully sampled scan, divided by the number "
    "that was acquired.",
    "NMSE": "Normalized mean squared error: the squared error of the whole volume divided by the squared target. "
    "Lower is better; 0 is perfect.",
    "PSNR": "Peak signal-to-noise ratio, in decibels: how far the brightest value of the target lies above the error. "
    "Higher is better; 6 dB more is half the error.",
    "SSIM": "Structural similarity: how well patterns of brightness and contrast agree in small windows. Higher is "
    "better; 1 is perfect.",
    "s / slice": "Seconds of computation per slice, without reading and writing files.",
}
IMAGES = {
    "zero-filled": "The image of the acquired k-space alone, with zeros for everything else.",
    "target": "The reference image, from the fully sampled scan. It is itself noisy.",
    "error": "The absolute difference between reconstruction and target, magnified.",
    "uncertainty": "The expected size of the error at each pixel: one standard deviation, from posterior samples.",
}
PROMISES = {
    "bounds": "Lower bounds of PSNR and SSIM, without a target to compare with. With the stated confidence, the true "
    "score is above the bound, on average over subjects whose scans resemble those of the calibration.",
    "held-out p-value": "Some acquired k-space samples are held out and predicted. The p-value is the fraction of "
    "the calibration's scans that are predicted at least as badly. At 0.05 or below, the scan does not resemble those "
    "of the calibration: bounds and uncertainty may not hold.",
}
METHODS = {
    "hybrid": "The method of mrihvae: a network predicts the image in a few encoder passes, then the prediction is "
    "refined against the acquired k-space.",
    "amortized": "A single encoder pass of the network, without refinement.",
    "samples": "The mean of posterior samples, which all agree with the acquired k-space.",
    "pnp": "PnP-HVAE: the network is the denoiser of a plug-and-play loop.",
    "sense": "CG-SENSE: least squares with coil sensitivity maps, without a network.",
    "wavelet": "L1-wavelet compressed sensing, without a network.",
    "tv": "Total variation: compressed sensing that prefers flat regions, without a network.",
}
STAGES = {
    "read": "Opening the file and reading k-space.",
    "checks": "Checking the scan and its mask.",
    "check": "Estimating whether to blend towards total variation.",
    "maps": "Estimating coil sensitivity maps.",
    "first guess": "The image that inference starts from.",
    "inference": "The network and the refinement.",
    "write": "Writing the images and the picture of the volume.",
}
TERMS = {**SCORES, **IMAGES, **PROMISES, **METHODS, **STAGES}  # all tooltips


def glossary(method: str) -> dict[str, str]:
    """Return the terms that the glossary explains, with the `method` of the report."""
    own = {method: METHODS[method]} if method in METHODS else {}
    return {**SCORES, **own, **IMAGES, **PROMISES}
