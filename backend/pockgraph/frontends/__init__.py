"""Front ends: models that do not come as PyTorch code, made into modules that `Task` takes.

What is trained of them, and how, is decided by the rooms that take every module.
"""
