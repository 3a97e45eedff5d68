"""Pages of docs/ and checks of this repository's own targets: `python -m tools.pages --help`."""
