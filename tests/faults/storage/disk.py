"""A disk whose every write is written down in order, so that the power can be cut at any of them afterwards.

A program of its own (``python -m tests.faults.storage.disk PLACE LOG SIZE``) serves one file by FUSE; a loop device
lies on that file and ext4 on the device. What the kernel sends to the disk, writes and flushes, goes to LOG, as
device-mapper's log-writes would keep it, without device-mapper. ``cut`` makes of the log what the disk holds after a
power cut:

- everything up to the last flush that had ended is there;
- of what came later, what a volatile cache had happened to write: a random part of it, block by block.

A disk that lies about flushes, blocks that are torn, and cells that die, are not modelled.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

BLOCK = 4096  # ext4 takes its own block for what a disk writes whole, its superblock for one
_RECORD = struct.Struct("=cQI")  # W: a write; F: a flush has ended; then offset and length
_IN, _OUT = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
_GETATTR, _OPEN, _READ, _WRITE, _RELEASE, _FSYNC, _FLUSH, _INIT, _FALLOCATE = 3, 14, 15, 16, 18, 20, 25, 26, 43
_FORGET, _BATCH_FORGET, _INTERRUPT, _DESTROY = 2, 42, 36, 38
_DIRECT_IO = 1
_LARGEST = 1 << 20


def serve(place: str, log: str, size: int) -> None:
    """Mount and answer until it is unmounted. Prints a line when it is mounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=100600,user_id=0,group_id=0,max_read={_LARGEST}".encode()
    if libc.mount(b"boardfit-test-disk", place.encode(), b"fuse", 6, options):  # MS_NOSUID | MS_NODEV
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.write(1, b"mounted\n")
    disk = mmap.mmap(-1, size)
    with open(log, "wb", buffering=0) as kept:
        while True:
            try:
                asked = os.read(device, _LARGEST + 65536)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                raise
            _, code, unique, *_ = _IN.unpack_from(asked)
            if code in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            number, answer = _answer(code, memoryview(asked)[_IN.size :], disk, size, kept)
            os.write(device, _OUT.pack(_OUT.size + len(answer), -number, unique) + answer)


def _answer(code: int, given: memoryview, disk: mmap.mmap, size: int, kept: object) -> tuple[int, bytes]:
    if code == _INIT:
        major, minor, ahead, _ = struct.unpack_from("=IIII", given)
        big_writes, max_pages = 1 << 5, 1 << 22
        flags, pages = big_writes | max_pages, _LARGEST // 4096
        reply = struct.pack("=IIIIHHIIHHI", major, min(minor, 31), ahead, flags, 16, 12, _LARGEST, 1, pages, 0, 0)
        return 0, reply + bytes(64 - len(reply))
    if code == _GETATTR:
        mode = stat.S_IFREG | 0o600
        attributes = struct.pack("=6Q10I", 1, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return 0, struct.pack("=QII", 3600, 0, 0) + attributes
    if code == _OPEN:
        return 0, struct.pack("=QII", 0, _DIRECT_IO, 0)
    if code == _READ:
        _, offset, length = struct.unpack_from("=QQI", given)
        return 0, bytes(disk[offset : offset + length])
    if code == _WRITE:
        _, offset, length = struct.unpack_from("=QQI", given)
        data = bytes(given[40 : 40 + length])
        disk[offset : offset + length] = data
        kept.write(_RECORD.pack(b"W", offset, length) + data)  # type: ignore[attr-defined]
        return 0, struct.pack("=II", length, 0)
    if code == _FSYNC:
        kept.write(_RECORD.pack(b"F", 0, 0))  # type: ignore[attr-defined]
        return 0, b""
    return (0, b"") if code in (_FLUSH, _RELEASE, _DESTROY) else (errno.ENOSYS, b"")


class NoDiskError(Exception):
    """This machine cannot mount what is needed."""


class Entry(NamedTuple):
    """One thing the disk was told. ``end``: where its record ends in the log, bytes; ``data`` None: a flush ended."""

    end: int
    offset: int
    data: bytes | None


def read_log(log: Path) -> list[Entry]:
    """Return what was written down, in order."""
    raw, at, found = log.read_bytes(), 0, []
    while at + _RECORD.size <= len(raw):
        kind, offset, length = _RECORD.unpack_from(raw, at)
        at += _RECORD.size + length
        found.append(Entry(at, offset, raw[at - length : at] if kind == b"W" else None))
    return found


def cut(entries: list[Entry], count: int, image: Path, size: int, chance: random.Random | None) -> None:
    """Write to ``image`` what the disk holds after a power cut when ``count`` entries had been taken.

    Args: chance: says what of the volatile cache had reached the disk; None: all of it.
    """
    flushed = max((n + 1 for n in range(count) if entries[n].data is None), default=0)
    share = 1.0 if chance is None else chance.choice((0.0, 0.3, 0.7, 1.0))
    with image.open("wb", buffering=0) as disk:
        disk.truncate(size)
        for number, (_, offset, data) in enumerate(entries[:count]):
            if data is None or not (step := len(data)):
                continue
            if chance is not None and number >= flushed:
                step = BLOCK
            for start in range(0, len(data), step):
                if step != BLOCK or chance is None or number < flushed or chance.random() < share:
                    os.pwrite(disk.fileno(), data[start : start + step], offset + start)


@contextmanager
def logging_disk(folder: Path, size: int) -> Iterator[tuple[Path, Path]]:
    """Give a mounted ext4 on such a disk. Returns: where it is mounted, and its log. Raises: NoDiskError."""
    served, place, log = folder / "served", folder / "disk", folder / "log"
    served.touch()
    place.mkdir()
    command = [sys.executable, "-m", "tests.faults.storage.disk", str(served), str(log), str(size)]
    root = Path(__file__).resolve().parents[3]
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE)
    assert server.stdout is not None
    if server.stdout.readline() != "mounted\n":
        assert server.stderr is not None
        raise NoDiskError(f"FUSE cannot be mounted: {server.stderr.read().strip().splitlines()[-1:]}")
    try:
        _run("mkfs.ext4", "-q", "-F", "-J", "size=4", str(served))
        with mounted(served, place):
            yield place, log
    finally:
        _unmount(served)
        server.wait(30)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """Mount an image by way of a loop device; its journal is replayed. Raises: NoDiskError.

    Without what ext4 does unasked for a file that is renamed over another: it hides a missing fsync.
    """
    _run("mount", "-o", "loop,noatime,noauto_da_alloc", str(image), str(place))
    try:
        yield
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    """Unmount; whoever looks into every mount, and a loop device that is let go of, may hold it for a moment."""
    for _ in range(50):
        if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", str(place)], check=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoDiskError(f"{command[0]}: {done.stderr.strip()}")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
