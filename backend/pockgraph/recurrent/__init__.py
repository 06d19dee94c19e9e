"""LSTM, GRU and RNN as loops: the layers as autograd sees them, and the loops as operators of a graph.

How a runtime executes a loop is told in `targets/`.
"""
