"""Keep a figure and its unit, and a range, on one line of a table of the site (a hook of mkdocs)."""

import re

CELL = re.compile(r"<td\b[^>]*>.*?</td>", re.DOTALL)
TOGETHER = re.compile(r"\(\d+-\d+\)|[+-]?\d[\d.]* (?:[KMG]i?B|m?s|h|%)(?![\w/])")


def on_page_content(html: str, **_: object) -> str:
    """Mark what is to stay together in the cells of a page."""
    return CELL.sub(lambda cell: TOGETHER.sub(r'<span class="together">\g<0></span>', cell[0]), html)
