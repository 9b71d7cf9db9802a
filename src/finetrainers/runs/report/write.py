"""Writing of report.html."""

from pathlib import Path

from finetrainers.files.whole import write_whole
from finetrainers.runs.folder import RunFolder
from finetrainers.runs.report.page import as_page
from finetrainers.runs.report.pictures import Pictures
from finetrainers.runs.state import standing

PAGE_FILE = "report.html"


class ReportWriter:
    """Writes the report of one run again and again, each time with what is new."""

    def __init__(self, path: Path) -> None:
        self.run = RunFolder(path)
        self._pictures = Pictures()

    def has_begun(self) -> bool:
        """Whether training has begun: before, there is nothing to tell that config.yaml does not."""
        self.run.update()
        return self.run.begun is not None

    def write(self, file: Path | None = None, *, is_over: bool = False) -> Path:
        """Bring the report up to date.

        Args:
            file: By default report.html in the run directory.
            is_over: The run has ended, as only its own process knows as long as it has the directory.
        """
        self.run.update()
        file = self.run.path / PAGE_FILE if file is None else file
        how = standing(self.run.path, is_over=is_over)
        write_whole(file, as_page(self.run, how, self._pictures, folder=file.resolve().parent))
        return file
