"""What a graph costs: floating-point operations of each node, which bytes are alive when, and what a mask
that is kept instead of an activation costs.

Numbers only; whoever decides by them lives in `profile/` and `search/`. `liveness` and `masks` import
no torch.
"""
