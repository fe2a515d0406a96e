"""`python -m replay` is `kvreplay run`."""

import sys

from replay.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
