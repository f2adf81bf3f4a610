# SPDX-License-Identifier: Apache-2.0
"""``pytorch_quantization.utils.quant_logging``."""

from __future__ import annotations

import logging

__all__ = ["reset_logger_handler"]


def reset_logger_handler() -> None:
    """Remove every handler of the root logger, for scripts in which a library has installed its own.

    qdqbert installs none: it writes to the loggers below ``"qdqbert"`` and leaves the rest to the program.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
