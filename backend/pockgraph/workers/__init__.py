"""Where jobs run: executors of `concurrent.futures`, and handing jobs out to one whose processes may die.

Not here: what a job is (`contribution/`). No torch.
"""
