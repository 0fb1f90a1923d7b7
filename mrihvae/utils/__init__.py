"""General utilities without any MRI in them: settings, files, warnings, precision, memory, seconds of stages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
