"""One view a file: each shows the state and calls its methods. `parts.py` is what they are made of.

Not here: figures (`info/`), and knowledge of another view: only `page.py` has all of them.
"""
