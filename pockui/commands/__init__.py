"""The commands of `pockui`, a module for each group.

Not here: what they compute. Torch, OpenVINO and Panel are imported by the functions that need them:
`pockui --help` answers at once.
"""
