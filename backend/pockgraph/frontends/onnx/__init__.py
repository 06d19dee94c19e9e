"""An inference ONNX model as a trainable PyTorch module, and its trained weights back into the file.

Not here: a training step as an ONNX model (`targets/onnx/`). The package `onnx` is imported when a model is
loaded or written.

```
file ─ reader ─► Program ─ roles ─► parameters, buffers, constants
                    │                        │ naming
                    └──── checks             ▼
                            └──────► OnnxModule (torch functions of ops_*.py) ─ writing ─► file
```
"""

from .module import OnnxModule, load
from .writing import export_onnx

__all__ = ["OnnxModule", "export_onnx", "load"]
