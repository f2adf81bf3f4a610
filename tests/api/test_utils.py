# SPDX-License-Identifier: Apache-2.0
"""The public functions of ``qdqbert.utils``; `reduce_amax` itself is tested with the other functions."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from qdqbert import tensor_quant, utils
from qdqbert.utils import quant_logging


def test_reduce_amax_is_the_function() -> None:
    assert utils.reduce_amax is tensor_quant.reduce_amax
    assert utils.reduce_amax(np.float32([[1, -3], [2, 0]]), axis=0).tolist() == [[2.0, 3.0]]
    with pytest.raises(ValueError, match="Cannot reduce more axes than tensor's dim"):
        utils.reduce_amax(np.ones((2, 2)), axis=(0, 1, 2))


def test_every_handler_of_the_root_logger_is_removed_and_no_other() -> None:
    root, own = logging.getLogger(), logging.getLogger("qdqbert.test")
    kept, before = logging.NullHandler(), list(root.handlers)
    own.addHandler(kept)
    try:
        for _ in range(3):
            root.addHandler(logging.NullHandler())
        quant_logging.reset_logger_handler()
        assert root.handlers == []
        assert own.handlers == [kept]
        quant_logging.reset_logger_handler()
    finally:
        own.removeHandler(kept)
        for handler in before:
            root.addHandler(handler)


def test_the_package_installs_no_handler() -> None:
    assert logging.getLogger("qdqbert").handlers == []
