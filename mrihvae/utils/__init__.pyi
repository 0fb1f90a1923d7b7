from .config import as_dict as as_dict
from .config import from_dict as from_dict
from .config import schema as schema
from .files import atomic_write as atomic_write
from .notices import collect_notices as collect_notices
from .notices import warn as warn
from .text import printable as printable
