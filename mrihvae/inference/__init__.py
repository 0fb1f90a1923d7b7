"""IA-HVAE: latents, their refinement, undersampled slices in the network's units, posterior samples.

Reconstruction of slices by given weights is `mrihvae.inference.reconstruct.reconstruct`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
