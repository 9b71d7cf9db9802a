"""Files of a folder that no item uses: captions whose medium is missing or cannot be read, and media nobody can read."""

from pathlib import Path

from finetrainers.data.media.blob import ref_of
from finetrainers.data.media.files import CONVERT, is_media
from finetrainers.data.sources.folders import how_to_convert, suffixes
from finetrainers.data.sources.listing import Problem

NAMED = 5
"""Files that a warning names; it counts all."""
TABLES = (".csv", ".json", ".jsonl", ".parquet")
"""Suffixes of files that may list captions."""
NOTES = ("readme", "license", "licence", "notice", "credits", "requirements", "changelog")
"""Names of texts that are no captions."""


class LeftOver:
    """Looks at the files of each folder, and remembers what no item uses."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        """Media with a caption that cannot be read here."""
        self._unread: list[str] = []
        self._tables: list[str] = []
        self._has_captions = False
        self._captions: list[str] = []
        self._shared: list[str] = []
        self._counts = {"unread": 0, "captions": 0, "shared": 0, "tables": 0}

    def look(self, folder: str, names: list[str]) -> None:
        """Sort the files of one folder."""
        captions = {Path(name).stem for name in names if name.endswith(".txt")}
        media: set[str] = set()
        for name in names:
            stem, suffix = Path(name).stem, Path(name).suffix
            if is_media(Path(name)):
                if stem in media and stem in captions:
                    self._count("shared", self._shared, f"{folder}/{stem}.txt")
                media.add(stem)
            elif suffix.lower() in CONVERT:
                media.add(stem)
                if stem in captions:
                    reason = f"suffix {suffix!r} is none of {suffixes()}{how_to_convert(suffix)}"
                    self.problems.append(Problem(ref_of(f"{folder}/{name}"), reason))
                else:
                    self._count("unread", self._unread, f"{folder}/{name}")
        self._has_captions |= bool(captions & media)
        for name in names:
            if Path(name).suffix.lower() in TABLES and Path(name).stem not in media:
                self._count("tables", self._tables, f"{folder}/{name}")
        for stem in sorted(captions - media):
            if stem.lower() not in NOTES:
                self._count("captions", self._captions, f"{folder}/{stem}.txt")

    def notes(self, folder: Path) -> tuple[str, ...]:
        """Say what is left over, in a sentence for each kind."""
        kinds = (
            ("captions", self._captions, "caption files have no image or video next to them"),
            ("unread", self._unread, f"media without captions are of formats that cannot be read here{self._conversion()}"),
            (
                "tables",
                self._tables,
                "files may list captions and are not read: name one as data.path if it does, or call it metadata",
            ),
            ("shared", self._shared, "caption files belong to several media of the same name, and are used for each"),
        )
        return tuple(
            f"{folder}: {self._counts[kind]} {what}: {', '.join(named)}{', ...' * (self._counts[kind] > NAMED)}"
            for kind, named, what in kinds
            if named and not (kind == "tables" and self._has_captions)
        )

    def _conversion(self) -> str:
        """Say how to convert the first one that cannot be read."""
        return how_to_convert(Path(self._unread[0]).suffix) if self._unread else ""

    def _count(self, kind: str, named: list[str], path: str) -> None:
        self._counts[kind] += 1
        if len(named) < NAMED:
            named.append(path.encode(errors="backslashreplace").decode())
