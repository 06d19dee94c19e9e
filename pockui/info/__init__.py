"""What the views show, as plain values: pure functions of engine values.

Not here: torch, Panel, and what is drawn (`views/`, `components/`).
"""
