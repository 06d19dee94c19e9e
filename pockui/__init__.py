"""The faces of pockgraph: the command line (`cli`, `commands/`) and the dashboard (`app`, `page`, `views/`).

What they show is computed in `info/` and by the engine; nothing here knows of graphs.
"""
