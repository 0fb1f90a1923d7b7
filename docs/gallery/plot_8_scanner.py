"""
Serving a scanner
=================

A server receives the lines of a scan over TCP, and sends back each image as soon as its lines have arrived.
"""

# %%
# The server of `mrihvae serve` runs in a thread of this script, on any free port of this machine. Faster methods
# replace the two default ones here; `mrihvae.server.load_engine` loads the default methods.
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mrihvae
from mrihvae.io.mrd import client_messages, lines_of_scan, read_mrd_images, write_received_images
from mrihvae.io.mrd.messages import Note, ReceivedImage
from mrihvae.server import Address, Engine, Server, ServerSettings, exchange_messages

methods = {1: mrihvae.load_method("amortized"), 2: mrihvae.load_method("amortized", several_coils=True)}
server = Server(Engine(methods), ServerSettings(port=0))
thread = threading.Thread(target=server.serve, daemon=True)
thread.start()

# %%
# The scanner: an undersampled single-coil scan becomes ISMRMRD messages, line by line.
(scan,) = mrihvae.open_kspace(Path(mrihvae.__file__).parent / "demo_scans" / "patient_6B_FSE.h5")
mask = mrihvae.sampling_pattern("random", scan.kspace.shape[-2:], acceleration=4, center_fraction=0.08, seed=4)
undersampled = replace(scan, kspace=np.where(mask, np.asarray(scan.kspace), 0), mask=mask[0], target=None)
stream = lines_of_scan(undersampled)
print(stream.count, "lines")

# %%
# The client sends them, and receives images and texts. `mrihvae send FILE HOST:PORT` does the same.
images = []
for answer in exchange_messages(Address("127.0.0.1", server.port), client_messages(stream, "default")):
    if isinstance(answer, ReceivedImage):
        images.append(answer)
    elif isinstance(answer, Note):
        print(answer.text)
server.stop()
thread.join()

# %%
# The images are stored in the same form as by other clients, and read back as a volume with its position in the
# scanner.
path = Path(tempfile.mkdtemp()) / "images.mrd"
print(write_received_images(path, images, stream.xml))
volume = read_mrd_images(path)
figure, axes = plt.subplots(1, len(volume.pixels), figsize=(11, 3), layout="constrained")
for axis, image in zip(axes, np.asarray(volume.pixels)):
    axis.imshow(np.abs(image), cmap="gray")
    axis.axis("off")
