"""The measurement y = A x + n: Fourier transforms, masks, operators, noise, data terms, solvers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
