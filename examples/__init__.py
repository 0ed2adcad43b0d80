"""Short programs that use diffedit-trt. The first lines of each show how to run it."""
