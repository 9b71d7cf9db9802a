"""Writing of report.html."""

from pathlib import Path

from finetrainers.files.whole import write_whole
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.report.page import as_page
from finetrainers.runs.report.pictures import Pictures
from finetrainers.runs.state import State, standing

PAGE_FILE = "report.html"


class ReportWriter:
    """Writes the report of one run again and again, each time with what is new."""

    def __init__(self, path: Path) -> None:
        self.run = RunFolder(path)
        self._pictures = Pictures()

    def write(self, file: Path | None = None, *, state: State | None = None) -> Path:
        """Bring the report up to date.

        Args:
            file: By default report.html in the run directory, to which its links are relative.
            state: What the run is, as only its own process knows before it has ended.
        """
        self.run.update()
        file = self.run.path / PAGE_FILE if file is None else file
        write_whole(file, as_page(self.run, standing(self.run.path, state=state), self._pictures))
        return file
