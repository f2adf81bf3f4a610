# SPDX-License-Identifier: Apache-2.0
"""Folders of weights and configuration: reading, checking, writing."""

from qdqbert.serialization.folder import Source
from qdqbert.serialization.safetensors_file import SafetensorsFile, write_safetensors

__all__ = ["SafetensorsFile", "Source", "write_safetensors"]
