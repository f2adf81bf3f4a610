# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use."""

from __future__ import annotations

import pytest

from shared_data import Shared, shared_folder


@pytest.fixture(scope="session")
def shared() -> Shared:
    """Give ``shared("golden", "models")``-style access to the data folder beside the project."""
    return Shared(shared_folder())
