"""What is computed in float32 whatever the precision: in half precision the scores of similar captions would tie."""

from __future__ import annotations

import torch
from lightning.pytorch.plugins import HalfPrecision
from torch import nn
from torch.nn import functional as F


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or as it is where it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def linear_in_float32(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A linear layer whose products are summed and kept in float32 at least, also under autocast.

    Args:
        layer: `nn.Linear`; another module (one with adapters) runs in its own precision.
        inputs: (..., in).

    Returns:
        (..., out).
    """
    # the exact class: PEFT's layer has a `weight` too, the base's, and reading that would lose the update
    if type(layer) is not nn.Linear:
        return at_least_float32(layer(inputs))
    bias = None if layer.bias is None else at_least_float32(layer.bias)
    # autocast would cast both factors back to half precision
    with torch.autocast(inputs.device.type, enabled=False):
        return F.linear(at_least_float32(inputs), at_least_float32(layer.weight), bias)


class HalfParameters(HalfPrecision):
    """Lightning's half precision for parameters alone.

    Its own rounds buffers too, rotary frequencies among them: with 8 bits a position of some hundreds is wrong by up to
    a radian. Transformers loads them in float32 whatever the weights are in, so that evaluation would read the
    tokens at other positions than training.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """The module with its parameters in half precision, and its buffers as they were."""
        kept = [
            (owner, name, buffer)
            for owner in module.modules()
            for name, buffer in owner.named_buffers(recurse=False)
            if buffer.is_floating_point()
        ]
        module = super().convert_module(module)
        for owner, name, buffer in kept:
            setattr(owner, name, buffer.to(getattr(owner, name).device))
        return module
