from .coils.maps import estimate_maps as estimate_maps
from .data.scan import Scan as Scan
from .errors import InputError as InputError
from .evaluation.scores import evaluate as evaluate
from .inference.settings import InferenceSettings as InferenceSettings
from .io.kspace import open_kspace as open_kspace
from .model.weights import load_model as load_model
from .physics.sampling import sampling_pattern as sampling_pattern
from .pnp.restore import restore_images as restore_images
from .pnp.settings import PnPSettings as PnPSettings
from .recon.arrays import ReconstructedImage as ReconstructedImage
from .recon.arrays import reconstruct as reconstruct
from .recon.convert import save as save
from .recon.methods import load_method as load_method
from .recon.volumes import reconstruct_scan as reconstruct_scan
from .reconstructor import Reconstructor as Reconstructor

__version__: str
