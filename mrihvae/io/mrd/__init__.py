"""The ISMRMRD (MRD) format: header, lines, files, messages of a stream, images."""
