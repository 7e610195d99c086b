"""`python -m runtime` is the `flowpod` command."""

import sys

from runtime.cli import main

sys.exit(main())
