"""A plan in a PyTorch module that is trained by a loop of its own: what `Plan.apply` does.

Not here: graphs (`train_graph/`), and the eager steps that others are compared with (`parity/`).
"""
