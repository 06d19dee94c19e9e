"""Benchmarks of a training step, this project's and its peers', interleaved in one run.

Not here: what a page costs (`benchmarks/ui.py`), and the program of each peer (`benchmarks/peers/`).
"""
