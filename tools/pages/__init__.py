"""Write pages of docs/ and check the promises of this repository: `python -m tools.pages --help`."""
