"""How much the metric gains when a tensor learns too: the table, and the fine-tuning that measures it.

What is trained for a budget is chosen in `search/`. Only `gains` and `candidates` import no torch.
"""

from .gains import Candidate, Contribution, Gain, Measurement, Progress, tabulate

__all__ = ["Candidate", "Contribution", "Gain", "Measurement", "Progress", "tabulate"]
