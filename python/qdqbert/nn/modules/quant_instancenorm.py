# SPDX-License-Identifier: Apache-2.0
"""The original's path of instance normalizations: out of scope, every name raises an error that says so."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:

    def __getattr__(name: str) -> None:
        """Say why a name of the original is not here."""
        from qdqbert.nn.out_of_scope import missing_name

        raise missing_name(__name__, name)
