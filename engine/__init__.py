"""The runtime: gather rows of networks into batches, run them on a backend, return the outputs.

It knows rows and networks, not images, prompts or guidance. It imports neither `diffedit` nor
`export`.
"""
