"""Graphs (`torch.fx` on core ATen), and what reads, checks, runs and writes them without changing them.

Not here: passes, plans and targets.
"""
