"""The runtime: gather rows of networks into batches, run them on a backend, return the outputs.

It imports neither `diffedit` nor `export`.
"""
