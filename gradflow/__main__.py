"""``python -m gradflow``: the command line."""

import sys

from gradflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
