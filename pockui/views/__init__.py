"""One view a file: each shows the state and calls its methods, and knows no other view."""
