"""How much the metric gains when a tensor learns too: the table, and the fine-tuning that measures it.

Not here: what is trained for a budget (`search/`). Only `gains` and `candidates` import no torch.
"""

from .gains import Candidate, Contribution, Gain, Measurement, Progress, tabulate

__all__ = ["Candidate", "Contribution", "Gain", "Measurement", "Progress", "tabulate"]
