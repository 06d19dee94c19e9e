"""LSTM, GRU and RNN as loops: the layers as autograd sees them, and the loops as operators of a graph.

Not here: how a runtime executes a loop (`targets/`).
"""
