"""`python -m mrihvae`: the same as the command `mrihvae`."""

import sys

from mrihvae.cli.main import main

sys.exit(main())
