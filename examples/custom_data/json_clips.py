"""A JSON file for each clip: {"video": "1.mp4", "texts": ["a candle is pressed", "wax spreads"]}."""

import json
from pathlib import Path

from finetrainers import DataLayout, Item


class JsonClips(DataLayout):
    """The clips of all JSON files in a folder."""

    def items(self, path, config):
        """Yield what is in the folder ``data.N.path``, a str; config is that section."""
        for file in sorted(Path(path).glob("*.json")):
            about = json.loads(file.read_text(encoding="utf-8"))
            yield Item(media=about["video"], captions=about["texts"])
