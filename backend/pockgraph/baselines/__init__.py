"""How others choose what to train, each as a plan within a budget: what a search is compared with.

Not here: rules that know no budget (`plan/presets`), and the search.
"""
