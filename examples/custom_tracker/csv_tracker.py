"""All numbers of a run in one CSV file."""

import csv

from finetrainers import Tracker


class CsvTracker(Tracker):
    """Appends a row for each number, and one for each sample."""

    def begin(self, config):
        """The run begins, or continues."""
        self._file = (config.output_dir / "numbers.csv").open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)

    def log(self, step, numbers):
        """Take numbers, such as {"train/loss": 0.43}."""
        self._rows.writerows([step, name, value] for name, value in numbers.items())

    def show(self, step, samples):
        """Take what a validation has generated."""
        self._rows.writerows([step, sample.prompt, sample.file] for sample in samples)

    def end(self):
        """The run is over."""
        self._file.close()
