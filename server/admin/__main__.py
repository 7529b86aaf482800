"""`python -m server.admin`: see `server.admin.cli`."""

import sys

from server.admin.cli import main

main(sys.argv[1:])
