"""Passes that make a step cheaper, one a file: the same inputs and outputs of fewer or cheaper nodes.

Not here: which of them a target runs, and in which order: its `pipeline` says so (`targets/`).
"""
