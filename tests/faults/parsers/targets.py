"""All that reads foreign bytes, by name."""

from __future__ import annotations

from tests.faults.parsers import board_readers, message_readers, own_readers, registry_readers

TARGETS = {
    one.name: one for one in (*registry_readers.MADE, *message_readers.MADE, *own_readers.MADE, *board_readers.MADE)
}
