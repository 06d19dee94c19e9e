"""Samples from files, in batches: npz files, folders of shards, folders of images with a table of labels.

Not here: what a batch may hold (`batch.py`, `batch_limits.py`), and data of tasks, which are Python objects.
"""
