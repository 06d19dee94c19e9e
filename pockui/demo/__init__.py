"""Two tasks with real models and real data, all from installed packages: `vision.task()`, `text.task()`."""
