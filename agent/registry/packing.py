"""Packed model files: how a publisher makes them, and what a board takes out of them.

The last step of Deep Compression (Han, Mao and Dally 2016, https://arxiv.org/abs/1510.00149): a network whose weights
are pruned and share few values is smaller only once the file is entropy-coded. The paper codes the clusters' indices
with Huffman's code; here xz (LZMA2, whose range coder does that work) stands in, over the whole file, in any format:
what comes out is byte for byte the model that an engine opens.

Rules:
- One xz stream, and nothing after it. The dictionary is no larger than the file and at most 8 MiB, so that unpacking
  needs little memory; a board allows twice that, whatever the file asks for.
- The same file packs to the same bytes under the same liblzma.
- Length and SHA-256 of what comes out are signed. Unpacking stops at that length, however much would follow.
- The model is unpacked once, into the cache, by way of a part that is never trusted: it is made anew after a cut.

Leaves where files lie, and room for them, to ``cache``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from agent.core.manifest import Packing
from agent.core.ports import Progress, ProgressEvent, StopRequested, never_stop, no_progress
from agent.durable import storage_error
from agent.errors import DeviceError, Interrupted, ModelError, StorageError, TrustError
from agent.registry.cache import Cache
from agent.registry.plain import open_plain

METHOD = "xz"
SUFFIX = ".xz"
MAX_DICTIONARY_BYTES = 8 * 1024 * 1024
MEMORY_BYTES = 2 * MAX_DICTIONARY_BYTES
_CHUNK_BYTES = 256 * 1024
_PUBLISH_AGAIN = "publish it again; nothing of it was used"


def packed(source: Path) -> bytes | None:
    """Return a model file packed, or None where that would not make it smaller.

    Raises: ModelError: the file cannot be read. DeviceError: this Python has no lzma.
    """
    lzma = _lzma()
    try:
        with open_plain(source) as file:
            length = os.fstat(file.fileno()).st_size
            dictionary = min(max(4096, 1 << max(length - 1, 0).bit_length()), MAX_DICTIONARY_BYTES)
            # Weights are mostly four bytes wide, and a byte's neighbours say little of it but for its place among the
            # four: lp and lc say so. On the bundled models' float weights: 8 % smaller than with the preset's own.
            coding = {"preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary, "lc": 0, "lp": 2, "pb": 2}
            coder = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, **coding}])
            pieces = [coder.compress(chunk) for chunk in iter(lambda: file.read(_CHUNK_BYTES), b"")]
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror}", fix="check the path") from error
    data = b"".join([*pieces, coder.flush()])
    return data if len(data) < length else None


def unpacked(file: IO[bytes], packing: Packing, name: str) -> Iterator[bytes]:
    """Yield the model's bytes in pieces; only when the last has come without an error are they the signed ones.

    Args: file: the packed file, at its beginning. name: the candidate's, for messages.
    Raises: ModelError: the stream is damaged, cut, too long or short, asks for too much memory, is followed by
        something, or holds another file. DeviceError: this Python has no lzma. OSError: ``file`` cannot be read.
    """
    lzma = _lzma()
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)
    digest, length = hashlib.sha256(), 0
    while not decoder.eof:
        data = file.read(_CHUNK_BYTES) if decoder.needs_input else b""
        if decoder.needs_input and not data:
            raise _refusal(name, f"the stream ends after {length} of {packing.length} bytes")
        try:
            piece = decoder.decompress(data, max_length=_CHUNK_BYTES)
        except lzma.LZMAError as error:
            raise _refusal(name, f"{error} after {length} bytes") from error
        length += len(piece)
        if length > packing.length:
            raise _refusal(name, f"more comes out than the {packing.length} bytes that are signed")
        digest.update(piece)
        if piece:
            yield piece
    if decoder.unused_data or file.read(1):
        raise _refusal(name, "something follows the stream")
    if length != packing.length:
        raise _refusal(name, f"{length} bytes come out, {packing.length} are signed")
    if digest.hexdigest() != packing.sha256:
        raise _refusal(name, "what comes out is not the signed model")


def unpack(
    cache: Cache,
    source: Path,
    packing: Packing,
    name: str,
    *,
    progress: Progress = no_progress,
    stop: StopRequested = never_stop,
) -> Path:
    """Return the path in the cache of the model that a packed file holds. There must be room for it.

    Raises: ModelError, DeviceError: as ``unpacked``. StorageError: a disk fault. Interrupted: ``stop`` said so. What
        was unpacked until then is gone in each case.
    """
    done = 0
    try:
        with open_plain(source, follow=False) as file, cache.new_part(packing.sha256) as part:
            for piece in unpacked(file, packing, name):
                if stop():
                    raise Interrupted(f"stopped while unpacking {name}; the packed file is kept")
                part.write(piece)
                done += len(piece)
                progress(_event(name, done, packing.length))
        return cache.insert(packing.sha256, packing.length)
    except OSError as error:
        raise storage_error(error, cache.directory) from error
    except TrustError as error:  # what was written had this digest, what was read back has not
        raise StorageError(
            f"the disk did not keep {name} as it was unpacked", fix="replace the disk or card"
        ) from error
    finally:
        cache.drop_part(packing.sha256)  # after ``insert`` there is none


def _event(name: str, done: int, total: int) -> ProgressEvent:
    return ProgressEvent(stage="registry", text=f"unpacking {name}", done=done, total=total, unit="bytes")


def _refusal(name: str, what: str) -> ModelError:
    return ModelError(f"{name} cannot be unpacked: {what}", fix=_PUBLISH_AGAIN)


def _lzma() -> Any:
    """Return the module; imported here, because an agent that meets no packed file needs no decoder in memory."""
    try:
        import lzma
    except ImportError as error:
        raise DeviceError(
            f"this Python cannot read or write packed models: {error}", fix="install a Python with lzma (liblzma)"
        ) from error
    return lzma
