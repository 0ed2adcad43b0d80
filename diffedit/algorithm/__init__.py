"""DiffEdit on tensors: schedule, mask, plan, flows, caches, and the reference implementation.

Start with `edit`, which follows the paper, or with `reference`, the same edit in plain loops.
"""
