"""Two tasks with real models and real data, all from installed packages: `vision.task()`, `text.task()`.

The experiment that compares plans on them, and its report, too. No view and no engine code lives here.
"""
