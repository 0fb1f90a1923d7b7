from .hvae import HVAE as HVAE
from .settings import ModelSettings as ModelSettings
from .shipped import find_weights as find_weights
from .weights import fingerprint as fingerprint
from .weights import load_card as load_card
from .weights import load_model as load_model
from .weights import save_weights as save_weights
