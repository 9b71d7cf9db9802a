"""The command line."""

from finetrainers.cli.commands import build_parser as build_parser, main as main
