# SPDX-License-Identifier: Apache-2.0
"""``python -m qdqbert`` is the command ``qdqbert``."""

from qdqbert.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
