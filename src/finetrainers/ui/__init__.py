"""The web interface: a view on run directories, a form for new runs, and a queue of them. All that it shows is in files."""
