"""`python -m diffedit.cli`: the same as `diffedit-trt`."""

from diffedit.cli import main

main()
