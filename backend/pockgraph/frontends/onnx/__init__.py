"""An inference ONNX model as a trainable PyTorch module, and its trained weights back into the file.

```
file ─ reader ─► Program ─ roles ─► parameters, buffers, constants
                    │                        │ naming
                    └──── checks             ▼
                            └──────► OnnxModule (torch functions of ops_*.py) ─ writing ─► file
```

Only this package imports `onnx`, and only when a model is loaded or written.
"""

from .module import OnnxModule, load
from .writing import export_onnx

__all__ = ["OnnxModule", "export_onnx", "load"]
