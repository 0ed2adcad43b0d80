"""DiffEdit on tensors alone: schedule, mask, plan, flows, caches, and the plain reference.

Start with `edit`, which reads like the paper, or with `reference`, the same in plain loops.
"""
