# SPDX-License-Identifier: Apache-2.0
"""The command ``qdqbert``."""

from qdqbert.cli.command import main

__all__ = ["main"]
