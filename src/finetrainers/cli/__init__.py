"""The command line."""

from finetrainers.cli.commands import build_parser as build_parser
from finetrainers.cli.entry import main as main
