"""Drive headless Chromium through its DevTools protocol over two pipes; tests skip if it is not installed."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-extensions',
    '--disable-background-networking',
    '--no-first-run',
    '--no-proxy-server',
    '--remote-debugging-pipe',
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
)


class Browser:
    """One tab of Chromium with a profile in `folder`."""

    def __init__(self, folder):
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if not program or not shutil.which('bash'):
            pytest.skip('Chromium is not installed')
        pipes = os.pipe(), os.pipe()
        (theirs, self._write), (self._read, ours) = ([fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in p] for p in pipes)
        for end in sum(pipes, ()):
            os.close(end)
        command = [program, *FLAGS, f'--user-data-dir={folder}', 'about:blank']
        bash = f'exec "$@" 3<&{theirs} 4>&{ours} {theirs}<&- {ours}>&-'  # the browser reads from 3 and writes to 4
        quiet = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        self.process = subprocess.Popen(['bash', '-c', bash, 'bash', *command], pass_fds=(theirs, ours), **quiet)
        os.close(theirs)
        os.close(ours)
        self._number, self._buffer, self._session = 0, b'', None
        self.messages = []  # errors and warnings of the page
        pages = [page for page in self.call('Target.getTargets')['targetInfos'] if page['type'] == 'page']
        self._session = self.call('Target.attachToTarget', targetId=pages[0]['targetId'], flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(f'{domain}.enable')

    def call(self, method, **parameters):
        """Call a method of the protocol; return its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while (answer := self._receive()).get('id') != self._number:
            if answer.get('method') == 'Runtime.exceptionThrown':
                self.messages.append(json.dumps(answer['params']['exceptionDetails']))
            if answer.get('method') == 'Log.entryAdded':
                self.messages.append(answer['params']['entry']['text'])
        assert 'error' not in answer, answer
        return answer['result']

    def _receive(self):
        while b'\0' not in self._buffer:
            assert select.select([self._read], [], [], 60)[0], 'Chromium does not answer'
            content = os.read(self._read, 1 << 16)
            assert content, 'Chromium has ended'
            self._buffer += content
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def evaluate(self, script):
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def wait(self, script, seconds=30):
        """Wait until an expression is true in the page; return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, (script, self.messages)
            time.sleep(0.02)
        return value

    def open(self, url):
        """Open a page and wait until it is loaded."""
        self.messages.clear()
        self.call('Page.navigate', url=url)
        self.wait(f'location.href.startsWith({json.dumps(url)}) && document.readyState === "complete"')

    def resize(self, width, height, dark=False):
        """Set the size of the view in pixels and the colours that the user prefers."""
        self.call(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', features=[scheme])

    def screenshot(self):
        """Return the visible part of the page as a PNG file."""
        return base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])

    def close(self):
        """End the browser."""
        try:
            self.call('Browser.close')
            self.process.wait(10)
        except Exception:
            self.process.kill()
        os.close(self._read)
        os.close(self._write)
