"""The machines of tests/system/control and media: a console, and the control socket."""
import json
import os
import socket
import subprocess
import time


class Console:
    """A `nestor console` whose output is waited for."""

    def __init__(self, nestor, name):
        self.process = subprocess.Popen([nestor, "console", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.seen = b""

    def wait_for(self, text, seconds=60):
        until = time.time() + seconds
        while text not in self.seen and time.time() < until:
            data = self.process.stdout.read()
            if data:
                self.seen += data
            else:
                time.sleep(0.02)
        if text not in self.seen:
            raise SystemExit(f"the console did not say {text!r}: {self.seen[-2000:]!r}")
        at = self.seen.index(text) + len(text)
        said, self.seen = self.seen[:at], self.seen[at:]
        return said

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()


class Qmp:
    """The socket itself, as a script would use it."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(os.path.join(os.environ["XDG_RUNTIME_DIR"], "nestor", name + ".sock"))
        self.file = self.socket.makefile("rw", encoding="utf-8")
        assert "QMP" in self.read()
        assert self.execute("qmp_capabilities") == {}
        self.events = []

    def read(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments, "id": command}) + "\n")
        self.file.flush()
        while True:
            message = self.read()
            if "event" in message:
                self.events.append(message["event"])
                continue
            assert message["id"] == command
            return message.get("return", message.get("error"))

    def wait_event(self, name):
        while name not in self.events:
            message = self.read()
            if message is None:
                return False
            self.events.append(message.get("event"))
        self.events.remove(name)
        return True
