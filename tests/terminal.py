"""A pseudo-terminal, and the lines that remain visible on it."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading

COLUMNS = 240


class Terminal:
    """A pseudo-terminal; `close` returns all output.

    Attributes:
        stream: a text stream to it, for code of this process.
        side: its file descriptor, for another process.
    """

    def __init__(self, columns=COLUMNS, encoding='utf-8'):
        self._main, self.side = pty.openpty()
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack('4H', 24, columns, 0, 0))  # lines, columns, pixels
        self.stream = os.fdopen(self.side, 'w', encoding=encoding)
        self._parts = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while True:
            try:
                self._parts.append(os.read(self._main, 4096))
            except OSError:  # the other end is closed
                return

    def close(self):
        self.stream.close()
        self._reader.join()
        os.close(self._main)
        return b''.join(self._parts).decode()


def visible(output, columns=COLUMNS):
    """Return the lines that a terminal of so many columns shows after this output, also those that scrolled away."""
    lines, row, column = [[]], 0, 0
    for token in re.findall(r'\x1b\[\d*[A-Za-z]|.', output, re.DOTALL):
        if token == '\n':  # the pseudo-terminal sends \r with it
            row += 1
        elif token == '\r':
            column = 0
        elif token.startswith('\x1b'):
            row = max(row - int(token[2:-1] or 1), 0) if token.endswith('A') else row
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += ' ' * (column + 1 - len(lines[row]))
            lines[row][column] = token
            column += 1
    return [text for line in lines if (text := ''.join(line).rstrip())]
