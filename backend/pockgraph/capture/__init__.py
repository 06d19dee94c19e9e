"""Task -> traces: every operator that the user's code and autograd call, as eager PyTorch would run them.

Not here: what rewrites a finished trace (`passes/`). With `targets/torch/aot_package.py` and
`passes/legalize/tracing.py` this is the only room that touches torch's private or unstable interfaces.

The user's own code runs once on tensors without data, under autograd, and every operator it and autograd
call is written down: the graph *is* what eager PyTorch would run, a backward pass that the user wrote
included. State that the code changes in place becomes the graph's, and what one static graph cannot
repeat is refused by name and line.

- `trace.py`: what goes into a trace and comes out of it
- `user_code.py`: running the user's code under tracing, twice: both must do the same
- `traced_run.py`: one such run, and its graph; `plain_operators.py`: how PyTorch is set meanwhile
- `running_statistics.py`: what batch norms write
- `named_results.py`: what a prediction may give
- `model_stand_ins.py`: what stands in the model meanwhile: leaves of autograd, and no checkpoints
- `observer.py`: what runs beside it: whose line and layer an operator is, and which values it is given
- `function_rewrites.py`, `losses.py`: functions of torch, written so that a static graph can hold them
- `packed_sequences.py`: packed sequences as padded ones
- `in_place.py`: operators that write -> functions of values
- `complex_numbers.py`: complex Python numbers as constants
- `static_graph.py`: what a trace holds that no static graph can
- `node_metadata.py`: phase, layer and source of each node
- `python_state.py`: what Python keeps from one call to the next: snapshots, and what differs
- `model_checks.py`, `shared_memory.py`: models that cannot be trained as they are
- `refusals.py`: what cannot be captured, in words
"""

from .model_stand_ins import leaf_of
from .trace import Trace, trace_loss, trace_metric, trace_prediction
from .user_code import as_captured

__all__ = ["Trace", "as_captured", "leaf_of", "trace_loss", "trace_metric", "trace_prediction"]
