from .config import as_dict as as_dict
from .config import from_dict as from_dict
from .config import schema as schema
from .files import atomic_write as atomic_write
from .notices import collected as collected
from .notices import warn as warn
