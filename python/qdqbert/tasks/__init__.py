# SPDX-License-Identifier: Apache-2.0
"""Tasks on real data: reading it, feeding a model, and scoring what comes back.

squad
    Extractive question answering on SQuAD v1.1 and v2.0.
text_classification
    One label a text, from TSV, CSV or JSON lines.
"""

from qdqbert.tasks.data_error import DataError

__all__ = ["DataError"]
