# SPDX-License-Identifier: Apache-2.0
"""The original's path of `Clip`."""

from qdqbert.nn.clip import Clip

__all__ = ["Clip"]
