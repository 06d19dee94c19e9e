"""How much the metric gains when a tensor learns too: the table, and the runs that measure it.

Only `table` and `candidates` import no torch.
"""

from .gains import Candidate, Contribution, Gain, Measurement, Progress, tabulate

__all__ = ["Candidate", "Contribution", "Gain", "Measurement", "Progress", "tabulate"]
