from .collections import read_collection as read_collection
from .lazy import SliceCache as SliceCache
from .mixture import Dataset as Dataset
from .mixture import Reading as Reading
from .mixture import WeightedDatasets as WeightedDatasets
from .mixture import load_datasets as load_datasets
from .mixture import load_mixture as load_mixture
