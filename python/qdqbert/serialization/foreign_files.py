# SPDX-License-Identifier: Apache-2.0
"""What a file is that is not what its name says: a Git-LFS pointer, a web page, another format of weights.

Told by the first bytes, so that the error names the mistake that was made instead of the byte at which a
parser gave up.
"""

from __future__ import annotations

__all__ = ["HEAD_BYTES", "LFS_MARK", "describe_foreign"]

LFS_MARK = b"version https://git-lfs"
# Enough for every mark below; a tar archive has its own at 257.
HEAD_BYTES = 512

_MARKS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes (tf_model.h5); Keras weights are not read"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ\x00", "compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file of llama.cpp; convert the original weights instead"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"TFL3", "a TensorFlow Lite model"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"PK\x03\x04", "a ZIP archive, as torch.save writes (pytorch_model.bin) and NumPy too"),
)


def describe_foreign(head: bytes) -> str | None:
    """Say what a file is by its first `HEAD_BYTES` bytes, or None if nothing is recognized.

    Parameters
    ----------
    head : bytes

    Returns
    -------
    str or None
        What follows "is" in a sentence.
    """
    if not head:
        return "empty (0 bytes)"
    if head.startswith(LFS_MARK):
        return "a Git-LFS pointer, not the file; run `git lfs pull` in its repository"
    for mark, kind in _MARKS:
        if head.startswith(mark):
            return kind
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if head[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before version 0.4; load and save it again with a newer one"
    if not head.strip(b"\0"):
        return "filled with zeros: a download or a copy that was cut off"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not the file: a download that went to a login or an error page"
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 1 << 27:
        return "a safetensors file; its name should end in .safetensors"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a Python pickle, as torch.save writes (pytorch_model.bin)"
    if 0x81 <= head[0] <= 0x8F and head[1:2] and (0xA0 <= head[1] <= 0xBF or head[1] == 0xD9):
        return "a MessagePack file, as Flax writes (flax_model.msgpack); Flax weights are not read"
    if text.startswith((b"{", b"[")):
        return "JSON text"
    return None
