"""Help without any MRI in it: settings, files, precision, memory, seconds of stages."""
