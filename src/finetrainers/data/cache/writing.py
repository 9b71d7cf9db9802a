"""How items reach the disk: the first of many each in a file of its own, and the others in batches, which become packs.

A file of its own is there at once and for other tools to see, but costs a flush of the disk, and work at each start. So the
first items of a fill, all of a small one, have one each; of a large one that is stopped, the last batch is lost at most.
"""

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from finetrainers.data.cache.index import Index
from finetrainers.data.cache.packs import KINDS, Kind, write_file, write_pack
from finetrainers.errors import DataError, StorageError

NUM_ALONE = 64
"""Items of a fill, of each kind, that have a file each."""
BATCH_ITEMS, BATCH_BYTES, BATCH_SECONDS = 1024, 64_000_000, 30.0
"""A batch is written when it has so many items or bytes, or when so much time has passed since the last one."""
FEW = 4
"""Items of a batch that are too few for a pack."""


def item_file(root: Path, kind: Kind, key: str) -> Path:
    """Where an item is that has a file of its own."""
    return root / kind / key[:2] / f"{key}.safetensors"


class Batches:
    """What is to be written of one fill of a cache."""

    def __init__(self, root: Path, index: Index) -> None:
        self._root, self._index = root, index
        self._alone = dict.fromkeys(KINDS, NUM_ALONE)
        self._waiting: dict[Kind, dict[str, bytes]] = {kind: {} for kind in KINDS}
        self._bytes, self._begun = 0, time.monotonic()

    @property
    def waiting(self) -> Collection[str]:
        """Keys of the items that are not on the disk yet."""
        return {key for own in self._waiting.values() for key in own}

    def add(self, kind: Kind, key: str, data: bytes) -> None:
        """Write an item, at once or with others.

        Raises:
            DataError: If something cannot be written.
        """
        if self._alone[kind]:
            self._alone[kind] -= 1
            write_file(item_file(self._root, kind, key), [data])
            return
        if not self._bytes:
            self._begun = time.monotonic()
        self._waiting[kind][key] = data
        self._bytes += len(data)
        is_old = time.monotonic() - self._begun >= BATCH_SECONDS
        if is_old or self._bytes >= BATCH_BYTES or len(self._waiting[kind]) >= BATCH_ITEMS:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            DataError: If it cannot be written; it waits no more.
            StorageError: If the index cannot be written; then the items are there, and are found later.
        """
        waiting, self._waiting, self._bytes = self._waiting, {kind: {} for kind in KINDS}, 0
        errors: list[DataError | StorageError] = []
        for kind, items in waiting.items():
            try:
                self._write(kind, items)
            except (DataError, StorageError) as error:  # what is of another kind may find room
                errors.append(error)
        if errors:
            raise errors[0]

    def _write(self, kind: Kind, items: Mapping[str, bytes]) -> None:
        """Write the items of one kind."""
        if len(items) >= FEW:
            self._index.add(write_pack(self._root, kind, [(bytes.fromhex(key), data) for key, data in items.items()]))
        else:
            for key, data in items.items():
                write_file(item_file(self._root, kind, key), [data])
