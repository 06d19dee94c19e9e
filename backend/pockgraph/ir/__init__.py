"""Graphs (`torch.fx` on core ATen), and what reads, checks, runs and writes them without changing them.

No pass, plan or target lives here.
"""
