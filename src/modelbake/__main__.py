"""`python -m modelbake` is the command line."""

from modelbake.cli.main import main

main()
