# SPDX-License-Identifier: Apache-2.0
"""The modules of the original toolkit that are not here, because BERT has none of them.

Touching such a name raises `OutOfScopeError`, which is an `UnsupportedError` and an `ImportError`: so
``from qdqbert.nn import QuantConv2d`` fails with a sentence that says why, and ``except ImportError`` around
it works.  ``hasattr`` and ``getattr`` with a default raise the same error, on purpose: a script that goes on
without its convolutions would quantize another network than it did before.
"""

from __future__ import annotations

from qdqbert.errors import OutOfScopeError

__all__ = ["OUT_OF_SCOPE", "missing_name"]

_DIMENSIONS = ("1d", "2d", "3d")

_REASONS = {
    "a convolution": [
        prefix + kind + dimension
        for kind in ("Conv", "ConvTranspose")
        for prefix in ("", "Quant")
        for dimension in _DIMENSIONS
    ],
    "a pooling layer": [
        prefix + kind + dimension
        for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool")
        for prefix in ("", "Quant")
        for dimension in _DIMENSIONS
    ],
    "an instance normalization": [f"QuantInstanceNorm{dimension}" for dimension in _DIMENSIONS],
    "a recurrent network": ["LSTM", "LSTMCell", "QuantLSTM", "QuantLSTMCell"],
}

OUT_OF_SCOPE = {
    **{name: reason for reason, names in _REASONS.items() for name in names},
    "QuantBertSelfAttention": "replaced by QDQBERT: use the models of qdqbert, such as qdqbert.QDQBertModel",
}
"""Name -> what it is, for the sentence of the error."""


def missing_name(module: str, name: str) -> Exception:
    """Return the error for a name that a module does not have.

    Parameters
    ----------
    module : str
        Dotted name of the module that was asked.
    name : str

    Returns
    -------
    OutOfScopeError
        If the original toolkit had it.
    AttributeError
        Otherwise, as Python raises it.
    """
    what = OUT_OF_SCOPE.get(name)
    if what is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    if name != "QuantBertSelfAttention":
        what = f"{what}, and BERT has none: convolutions, pooling, instance norm and RNNs are out of scope"
    return OutOfScopeError(f"{module}.{name} is {what}")
