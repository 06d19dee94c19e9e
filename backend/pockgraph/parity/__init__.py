"""Does a compiled step compute what eager PyTorch computes? Gradients, updates and results are compared
with autograd and `torch.optim` on a real batch.

Not here: anything that changes the graph that is compiled.
"""
