"""What a graph costs: floating-point operations of each node, and which bytes are alive when.

Numbers only; whoever decides by them lives in `profile/` and `search/`. `liveness` imports no torch.
"""
