"""The report of a run: one HTML page that needs nothing beside it, or Markdown for a model card."""
