"""One file per command: an options dataclass and `run(options)`."""
