"""
From a scanner's raw data to DICOM
==================================

Raw data with geometry become two DICOM series: the images and their uncertainty.
"""

# %%
# An ISMRMRD file, as a scanner's converter writes it: here, it has the lines of a scan from the package, undersampled
# at 4x. The next steps are the same for Siemens raw data (TWIX `.dat`), which `mrihvae.open_kspace` reads with the
# extra `twix`.
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import ismrmrd
import matplotlib.pyplot as plt
import numpy as np
import pydicom

import mrihvae
from mrihvae.data import ImageVolume
from mrihvae.io.mrd import lines_of_scan

folder = Path(tempfile.mkdtemp())
(scan,) = mrihvae.open_kspace(Path(mrihvae.__file__).parent / "demo_scans" / "patient_6B_FSE.h5")
mask = mrihvae.sampling_pattern("random", scan.kspace.shape[-2:], acceleration=4, center_fraction=0.08, seed=5)
kspace = np.where(mask, np.asarray(scan.kspace), 0)[1:3]
stream = lines_of_scan(replace(scan, kspace=kspace, mask=mask[0], target=None))
file = ismrmrd.Dataset(str(folder / "scan.mrd"), "dataset")
file.write_xml_header(stream.xml.encode())
for message in stream.messages:
    file.append_acquisition(ismrmrd.Acquisition.deserialize_from(io.BytesIO(message[2:]).read))
file.close()

# %%
# The format is detected from the contents; the geometry comes from the lines.
(raw,) = mrihvae.open_kspace(folder / "scan.mrd")
print(raw.kspace.shape, "voxels of", np.round(raw.geometry.voxel, 2), "mm")

# %%
# Reconstruction and uncertainty are written to a folder of DICOM files, as with `mrihvae reconstruct --format dcm
# --samples 4`.
found = mrihvae.reconstruct_scan(raw, samples=4)
volume = ImageVolume(found.magnitude, raw.geometry, uncertainty=found.std)
mrihvae.save(folder / "dicom", volume, ".dcm")
files = [pydicom.dcmread(path) for path in sorted((folder / "dicom").rglob("*.dcm"))]
for one in files:
    print(one.SeriesNumber, one.InstanceNumber, one.ImagePositionPatient, one.ImageType[0])

# %%
# The images in a viewer.
figure, axes = plt.subplots(1, len(files), figsize=(10, 3), layout="constrained")
for axis, one in zip(axes, files):
    axis.imshow(one.pixel_array, cmap="gray")
    axis.set_title(f"series {one.SeriesNumber}, image {one.InstanceNumber}", fontsize=9)
    axis.axis("off")
