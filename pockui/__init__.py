"""The faces of pockgraph: the command line (`cli`, `commands/`) and the dashboard (`app`, `page`, `views/`).

Not here: what measures gains, finds plans and makes steps; that is the engine (`pockgraph/`). What the faces
show is computed in `info/`.
"""
