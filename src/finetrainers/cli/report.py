"""``finetrainers report``: writes the report of a run, as a page or as Markdown."""

import argparse
from pathlib import Path

from finetrainers.errors import ConfigError


def add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    report = commands.add_parser("report", help="write the report of a run, as a page or for a model card")
    report.add_argument("run_directory", metavar="RUN", type=Path, help="output_dir of the run")
    report.add_argument("--output", type=Path, metavar="FILE", help="file to write; by default RUN/report.html")
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
        ConfigError: With the suffix that it should have, or for a file that holds no report.
    """
    suffixes, file = (".md",) if options.markdown else (".html", ".htm"), options.output
    if file is None:
        return
    if file.suffix.lower() not in suffixes:
        raise ConfigError(f"--output: {file} is no {suffixes[0]}; name the file of the report")
    if file.exists() and not (file.is_file() and _is_report(file.read_bytes(), is_markdown=options.markdown)):
        raise ConfigError(f"--output: {file} is there, and holds no report of a run; name another file, or remove it")


def _is_report(data: bytes, *, is_markdown: bool) -> bool:
    """Whether this command wrote a file, or nobody has written anything into it."""
    mark = b"## Training of "
    return not data or (data.startswith(mark) if is_markdown else b"Written by finetrainers" in data)
