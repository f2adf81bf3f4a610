# SPDX-License-Identifier: Apache-2.0
"""qdqbert as a system under test."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqbert.bench.batches import Inputs

__all__ = ["QDQBertSystem", "start_qdqbert"]


class QDQBertSystem:
    """A model, and the batch that a call computes.

    Parameters
    ----------
    model : QDQBertModel
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._inputs: Inputs = {}

    def prepare(self, inputs: Inputs) -> dict[str, Any]:
        """Take another batch, and return the digest of what comes out of it.

        Parameters
        ----------
        inputs : dict of arrays
        """
        self._inputs = inputs
        output = np.ascontiguousarray(self())
        return {"sha256": hashlib.sha256(output.tobytes()).hexdigest()[:16]}

    def __call__(self) -> NDArray[np.float32]:
        """Compute the last hidden state, shape (B, T, H)."""
        return np.asarray(self.model(**self._inputs)[0])


def start_qdqbert(folder: str, threads: int, quantized: bool) -> tuple[QDQBertSystem, dict[str, Any]]:
    """Load the model of a folder, with its quantizers or with all of them off.

    Parameters
    ----------
    folder : str
    threads : int
    quantized : bool

    Returns
    -------
    (QDQBertSystem, dict)
        And which kernels run, and what share of the multiply-adds is integer.
    """
    import qdqbert

    qdqbert.set_num_threads(threads)
    model = qdqbert.QDQBertModel.from_pretrained(folder)
    model.eval()
    if not quantized:
        qdqbert.quantizers(model, {"*": "off"})
    found = qdqbert.explain(model)
    facts = {"isa": found.isa, "threads": found.num_threads, "integer_share": found.integer_share}
    return QDQBertSystem(model), facts
