"""A learner: it answers, takes corrections one by one, and trains in the background without getting worse.
Its folder holds one SQLite file, and the checkpoints of a few generations of weights.

Not here: the training step itself, and torch.
"""
