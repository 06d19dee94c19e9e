"""What every target's operators compute: cases by subject, each compared with eager PyTorch.

A target's file inherits `OperatorContract` and says how a graph is run. What only one runtime does, such as
the operators that a rule makes, is tested in the target's own file.
"""

from .comparison import Comparison
from .convolution import Convolution
from .elementwise import Elementwise
from .indexing import Indexing
from .losses import Losses
from .normalization import Normalization
from .pooling import Pooling
from .products import Products
from .reductions import Reductions
from .shapes import Shapes

__all__ = ["Comparison", "OperatorContract"]


class OperatorContract(
    Elementwise, Products, Shapes, Reductions, Normalization, Losses, Indexing, Pooling, Convolution
):
    pass
