from .contraction import SpectralNorm as SpectralNorm
from .contraction import contraction_ratios as contraction_ratios
from .contraction import spectral_norm as spectral_norm
from .loop import NotConverged as NotConverged
from .loop import Restored as Restored
from .reconstruct import reconstruct_scans as reconstruct_scans
from .restore import restore_images as restore_images
from .settings import PnPSettings as PnPSettings
