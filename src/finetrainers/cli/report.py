"""``finetrainers report``: writes the report of a run, as a page or as Markdown."""

import argparse
from pathlib import Path

from finetrainers.errors import ConfigError


def add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    report = commands.add_parser("report", help="write the report of a run, as a page or for a model card")
    report.add_argument("run_directory", metavar="RUN", type=Path, help="output_dir of the run")
    report.add_argument("--output", type=Path, metavar="FILE", help="where to; by default RUN/report.html")
    report.add_argument(
        "--markdown", action="store_true", help="as Markdown for a model card; printed if there is no --output"
    )
    report.set_defaults(run=run_report)


def run_report(options: argparse.Namespace, _: list[str]) -> None:
    """``report``."""
    from finetrainers.files.whole import write_whole
    from finetrainers.runs.report.markdown import as_markdown
    from finetrainers.runs.report.write import ReportWriter

    _check_output(options)
    writer = ReportWriter(options.run_directory)
    if not options.markdown:
        print(writer.write(options.output))
        return
    writer.run.update()
    text = as_markdown(writer.run, writer.run.standing())
    if options.output is None:
        print(text, end="")
    else:
        write_whole(options.output, text)
        print(options.output)


def _check_output(options: argparse.Namespace) -> None:
    """Refuse a file that is something else: it would be overwritten.

    Raises:
        ConfigError: With the suffix that it should have.
    """
    suffixes = (".md",) if options.markdown else (".html", ".htm")
    if options.output is not None and options.output.suffix.lower() not in suffixes:
        raise ConfigError(f"--output: {options.output} is no {suffixes[0]}; name the file of the report")
