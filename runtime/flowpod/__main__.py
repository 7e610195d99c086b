"""`python -m flowpod` is the `flowpod` command."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder, whose files would hide Flowpod's dependencies

from flowpod.cli.main import main

sys.exit(main())
