"""Short programs that use diffedit-trt. Each says in its first lines how to run it."""
