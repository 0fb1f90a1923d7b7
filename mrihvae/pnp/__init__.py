"""PnP-HVAE: the loop, image restoration, reconstruction, convergence.

The loop itself is `mrihvae.pnp.loop.restore`, recommended settings are `mrihvae.pnp.recommended.recommended`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
