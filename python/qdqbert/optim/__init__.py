# SPDX-License-Identifier: Apache-2.0
"""Optimizers and schedules under PyTorch's and transformers' names, and ``pytorch_quantization.optim``'s."""

from qdqbert.optim import helper, lr_scheduler
from qdqbert.optim.adamw import AdamW
from qdqbert.optim.clip_grad import clip_grad_norm_
from qdqbert.optim.lr_scheduler import get_scheduler
from qdqbert.optim.optimizer import Optimizer
from qdqbert.optim.sgd import SGD

__all__ = ["SGD", "AdamW", "Optimizer", "clip_grad_norm_", "get_scheduler", "helper", "lr_scheduler"]
