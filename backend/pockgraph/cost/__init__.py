"""What a graph costs: floating-point operations of each node, which bytes are alive when, and what a clamp
mask that is kept instead of an activation costs.

Not here: whoever decides by these numbers (`profile/`, `search/`). `liveness` and `clamp_masks` are without
torch.
"""
