"""Checkpoint folders in the cache that are made once from other files.

A single file is converted to a folder in diffusers' format. With another VAE or textual inversions,
a second folder is made, which links to the unchanged parts. The rest of the program therefore only
handles folders, and their digests differ if their weights differ.
"""
