"""Files of a folder that no item uses, by what they may have been meant for: captions, media, and what holds them."""

from collections import Counter
from collections.abc import Set
from pathlib import Path

from finetrainers.data.media.blob import ref_of
from finetrainers.data.media.files import CONVERT, is_media
from finetrainers.data.sources.folders import how_to_convert, suffixes
from finetrainers.data.sources.listing import Problem
from finetrainers.data.sources.table_file import columns_of

NAMED = 5
"""Files that a warning names; it counts all."""
TABLES = (".csv", ".json", ".jsonl", ".parquet")
"""Suffixes of files that may list captions."""
OTHER_TABLES = (".tsv", ".ndjson", ".xlsx", ".xls", ".ods")
"""Suffixes of tables of formats that are not read."""
ARCHIVES = (".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz", ".zst")
"""Suffixes of archives, which may hold media."""
UNFINISHED = (".part", ".partial", ".crdownload", ".incomplete", ".download", ".aria2")
"""Suffixes of what is still being downloaded, or will never be."""
CAPTION_NAMES = (".caption", ".cap")
"""Suffixes that other tools write captions with; and ``.txt`` in other case, or behind the suffix of the medium."""
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
        self._others: list[str] = []
        self._archives: list[str] = []
        self._unfinished: list[str] = []
        self._misnamed: list[str] = []
        self._counts: Counter[str] = Counter()
        self.num_used = 0
        """Caption files that items have."""

    def look(self, folder: str, names: list[str]) -> None:
        """Sort the files of one folder."""
        captions = {Path(name).stem for name in names if name.endswith(".txt")}
        media, others = set[str](), list[str]()
        for name in names:
            stem, suffix = Path(name).stem, Path(name).suffix
            if is_media(Path(name)):
                if stem in media and stem in captions:
                    self._count("shared", self._shared, f"{folder}/{stem}.txt")
                media.add(stem)
            elif suffix.lower() in CONVERT:
                media.add(stem)
                self._look_at_unread(f"{folder}/{name}", has_caption=stem in captions)
            elif suffix != ".txt":
                others.append(name)
        self._has_captions |= bool(captions & media)
        self.num_used += len(captions & media)
        files, bare = set(names), media - captions
        for name in others:
            self._look_at_other(f"{folder}/{name}", bare, media)
        for stem in sorted(captions - media):
            if stem in files and is_media(Path(stem)) and Path(stem).stem not in captions:
                self._count("misnamed", self._misnamed, f"{folder}/{stem}.txt")
            elif stem.lower() not in NOTES:
                self._count("captions", self._captions, f"{folder}/{stem}.txt")

    def _look_at_unread(self, path: str, *, has_caption: bool) -> None:
        """Name a medium of a format that cannot be read as a bad sample, if it has a caption."""
        suffix = Path(path).suffix
        if has_caption:
            self.problems.append(Problem(ref_of(path), f"suffix {suffix!r} is none of {suffixes()}{how_to_convert(suffix)}"))
        else:
            self._count("unread", self._unread, path)

    def _look_at_other(self, path: str, bare: Set[str], media: Set[str]) -> None:
        """Sort a file that is neither a medium nor a caption of the usual name."""
        stem, suffix = Path(path).stem, Path(path).suffix
        if suffix.lower() in (".txt", *CAPTION_NAMES) and stem in bare:
            self._count("misnamed", self._misnamed, path)
        elif suffix.lower() in TABLES and stem not in media:
            self._count("tables", self._tables, path)
        elif suffix.lower() in OTHER_TABLES and stem not in media:
            self._count("others", self._others, path)
        elif suffix.lower() in ARCHIVES:
            self._count("archives", self._archives, path)
        elif suffix.lower() in UNFINISHED:
            self._count("unfinished", self._unfinished, path)

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
            ("others", self._others, "tables are of formats that are not read: save them as .csv, if they list captions"),
            ("archives", self._archives, "archives are not read: unpack them, if they hold media"),
            ("unfinished", self._unfinished, "files were not downloaded to their end: download them again"),
            (
                "misnamed",
                self._misnamed,
                "files may be captions and are not read, which is done of a .txt with the name of the medium: rename them",
            ),
            ("shared", self._shared, "caption files belong to several media of the same name, and are used for each"),
        )
        return tuple(
            f"{folder}: {self._counts[kind]} {what}: {', '.join(named)}{', ...' * (self._counts[kind] > NAMED)}"
            for kind, named, what in kinds
            if named and not (kind == "tables" and self._has_captions)
        )

    def about_tables(self) -> str:
        """Say of the first Parquet file which columns it has, none of which is known to name or hold media."""
        table = next((path for path in self._tables if path.endswith(".parquet")), None)
        if table is None:
            return ""
        return f"; {table} has the columns {', '.join(columns_of(table))}: name that of the media in data.media_column"

    def _conversion(self) -> str:
        """Say how to convert the first one that cannot be read."""
        return how_to_convert(Path(self._unread[0]).suffix) if self._unread else ""

    def _count(self, kind: str, named: list[str], path: str) -> None:
        self._counts[kind] += 1
        if len(named) < NAMED:
            named.append(path.encode(errors="backslashreplace").decode())
