"""Siemens raw data (TWIX, .dat): measurements of VB, VD, VE and XA, their protocols and lines."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
