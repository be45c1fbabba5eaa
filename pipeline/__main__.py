"""``python -m crashbeam.pipeline``: the command without its script."""

import sys

from crashbeam.pipeline.cli import main

sys.exit(main())
