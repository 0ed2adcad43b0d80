"""Checkpoint folders that are made once, in the cache, from other files.

A single file is converted into a folder in diffusers' format. Another VAE and textual inversions
make a second folder, which links to the parts that stay as they are. The rest of the program
therefore knows folders only, and their digests differ wherever their weights do.
"""
