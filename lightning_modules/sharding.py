"""Fully sharded data parallelism (FSDP2) of a scorer's network: layer by layer, under the wrapper as one root."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer


def shard_network(network: nn.Module, mesh: DeviceMesh, *, compute_dtype: torch.dtype | None = None) -> None:
    """Shards a network's parameters over the ranks of `mesh`, in place; a sharded network is left as it is.

    Every Transformers layer (of decoder, vision tower, text tower or Q-Former) is a group whose parameters are gathered
    when it runs; what stands outside the layers belongs to the root. The network comes with its weights and buffers,
    never on the meta device, so buffers that no checkpoint holds (position ids, rotary frequencies) stay right.

    Args:
        network: the module whose `forward` is all that anybody calls.
        mesh: one axis, the ranks that share the batch.
        compute_dtype: gathered parameters are cast to it, gradients are reduced in float32; as stored where None.

    Raises:
        ValueError: a parameter is on the meta device, or has no axis to be sharded along.
    """
    if isinstance(network, FSDPModule):
        return
    for name, parameter in network.named_parameters():
        # FSDP2 shards along the first axis, and a scalar has none
        if parameter.is_meta or not parameter.ndim:
            what = "is on the meta device" if parameter.is_meta else "is a scalar"
            raise ValueError(f"{name} {what}: load the weights and give scalars one axis before sharding.")
    policy = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=torch.float32 if compute_dtype else None, cast_forward_inputs=False
    )
    # layers before the root, which takes what no group has yet; a list, since `fully_shard` exchanges the modules'
    # classes
    for module in [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
