# SPDX-License-Identifier: Apache-2.0
"""Runs of tests do not wait for the disk; those that are killed, or meet a full one, call it by its name."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
