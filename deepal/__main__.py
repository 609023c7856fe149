"""`python -m deepal` is `deepal`."""

from deepal.cli import main

main()
