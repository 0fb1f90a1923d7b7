"""A client of MRD servers for tests, all of it under one name: `import mrd_client as mrd`."""

# ruff: noqa: F403

from mrd_messages import *
from mrd_mutations import *
from mrd_scans import *
from mrd_transport import *
