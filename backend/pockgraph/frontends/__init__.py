"""Front ends: models that do not come as PyTorch code, made into modules that `Task` takes.

Not here: what is trained of them, and how. The other rooms take their modules as any other.
"""
