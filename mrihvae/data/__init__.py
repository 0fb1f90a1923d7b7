"""Containers of what is passed around, NumPy only: scans, their geometry, calibration k-space, volumes of images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
