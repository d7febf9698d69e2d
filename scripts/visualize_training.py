"""The guide's name for `python -m gswa.train visualize`: takes the same options."""

import sys

from gswa.train import main

if __name__ == "__main__":
    sys.exit(main(["visualize", *sys.argv[1:]]))
