# SPDX-License-Identifier: Apache-2.0
"""Tests of graphs: Python, ONNX and NumPy run; of our C the forward of tiny models, which others test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.uninstrumented)
