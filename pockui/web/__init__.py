"""Artefacts in a browser: the runtime there, a page that learns drawings, and what writes both as a site.

Not here: the dashboard (`views`), and what runs an artefact in Python (`pockgraph.runtime`).
"""
