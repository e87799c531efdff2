"""``python -m st_adapter`` is ``st-adapter``."""

import sys

from st_adapter.cli import main

if __name__ == "__main__":
    sys.exit(main())
