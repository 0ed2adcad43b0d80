"""The runtime: rows of networks in, batches through backends, outputs back.

It knows rows and networks; it knows nothing of images, prompts or guidance, and imports neither
`diffedit` nor `export`.
"""
