"""Front ends: models that do not come as PyTorch code, made into modules that `Task` takes."""
