"""Two tasks with real models and real data, all from installed packages: `vision.task()`, `text.task()`; the
experiment that compares plans on them, and its report.

Not here: views, and code of the engine.
"""
