"""A client of MRD servers for tests, all of it under one name: `import mrd_client as mrd`."""

# ruff: noqa: F403

from tests.support.mrd.messages import *
from tests.support.mrd.mutations import *
from tests.support.mrd.reference import *
from tests.support.mrd.scans import *
from tests.support.mrd.transport import *
