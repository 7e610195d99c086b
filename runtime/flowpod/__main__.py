"""`python -m flowpod` is the `flowpod` command."""

import sys

from flowpod.cli.main import main

sys.exit(main())
