"""``python -m foreblocks.darts.cli``."""

import sys

from . import main

sys.exit(main())
