"""What is passed around, NumPy only: scans, geometry, volumes of images."""
