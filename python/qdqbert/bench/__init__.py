# SPDX-License-Identifier: Apache-2.0
"""``qdqbert bench``: a model beside its peers, in turns, on one machine, with its roof beside every row."""

from qdqbert.bench.comparison import Settings, compare

__all__ = ["Settings", "compare"]
