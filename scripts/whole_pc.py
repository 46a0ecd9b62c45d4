"""A machine that starts from a disk image, under Nestor or under QEMU's translator: its serial line, ssh into it, its
power button. Both get the same q35 PC with a virtio disk and a virtio network card behind user-mode networking.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

OVMF = "/usr/share/OVMF"


class Failed(Exception):
    """What went wrong, in one line."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Pc:
    """One machine. started: when it was, by time.monotonic(). Used in a with statement, which ends it.

    disk: words behind the image's name in --disk or -drive. image's key and known_hosts lie beside it.
    """

    def __init__(self, image, firmware="bios", cpus=1, memory="2G", options=(), echo=None):
        self.image, self.firmware, self.cpus, self.memory = image, firmware, cpus, memory
        self.options, self.echo = list(options), echo
        self.port = free_port()
        self.text = b""
        self.changed = threading.Condition()
        self.ended = False

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="nestor-pc-")
        try:
            self.started = time.monotonic()
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            shutil.rmtree(self.folder)
            raise Failed(f"{self.name} does not start: {error}") from error
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.reader.join(5)
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            if self.echo:
                self.echo.write(data.decode("latin-1"))
                self.echo.flush()
            with self.changed:
                self.text += data
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def lines(self):
        """What came by the serial line, without the escape sequences by which firmware and GRUB draw on it."""
        text = re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|c)", "", self.text.decode("latin-1"))
        return [line.strip("\r") for line in text.split("\n")]

    def last_line(self):
        return next((line.strip() for line in reversed(self.lines()) if line.strip()), "nothing")

    def await_text(self, pattern, limit, start=0):
        """Waits until the serial line has shown a regular expression (bytes) from byte `start` on."""
        end = time.monotonic() + limit
        with self.changed:
            while not re.search(pattern, self.text[start:]):
                if self.ended:
                    raise Failed(f"{self.name} ended; its last line: {self.last_line()[:200]}")
                if not self.changed.wait(max(end - time.monotonic(), 0)) and time.monotonic() >= end:
                    raise Failed(f"not within {limit:.0f} s; the last line: {self.last_line()[:200]}")

    def await_end(self, limit):
        """Waits until the machine has ended by itself, well."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"not within {limit:.0f} s; the last line: {self.last_line()[:200]}") from None
        self.reader.join(5)
        if status != 0:
            raise Failed(f"{self.name} ended with status {status}: {self.last_line()[:200]}")

    def ssh_command(self):
        return ["ssh", "-F", "none", "-i", self.image + ".key", "-p", str(self.port), "-o", "IdentitiesOnly=yes",
                "-o", f"UserKnownHostsFile={self.image}.known_hosts", "-o", "HostKeyAlias=nestor", "-o", "BatchMode=yes",
                "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR", "root@127.0.0.1"]

    def try_ssh(self, script, limit, data=None):
        """Runs a shell script in the guest. Returns its subprocess.CompletedProcess."""
        try:
            return subprocess.run(self.ssh_command() + [script], input=data, capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"not within {limit:.0f} s") from None

    def ssh(self, script, limit, data=None):
        """Runs a shell script in the guest, to its end and well. Returns its output as text."""
        result = self.try_ssh("set -e\n" + script, limit, data)
        output = result.stdout.decode(errors="replace")
        if result.returncode != 0:
            said = [line for line in (result.stderr.decode(errors="replace") + output).splitlines() if line.strip()]
            raise Failed(f"status {result.returncode}: {(said or ['no word'])[-1][:200]}")
        return output

    def await_ssh(self, limit):
        end = time.monotonic() + limit
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise Failed(f"sshd does not answer within {limit:.0f} s")
            result = self.try_ssh("true", left)
            if result.returncode == 0:
                return
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended; its last line: {self.last_line()[:200]}")
            time.sleep(0.2)


class Nestor(Pc):
    name = "nestor"

    def __init__(self, program, *arguments, **words):
        super().__init__(*arguments, **words)
        self.program = program
        self.vm = f"proof-{os.getpid()}-{self.port}"

    def command(self):
        command = [self.program, "run", "--engine", "soft", "--name", self.vm, "--memory", self.memory,
                   "--cpus", str(self.cpus), "--disk", f"{self.image},format=raw,if=virtio,snapshot",
                   "--net", f"user,model=virtio,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        if self.firmware == "efi":
            command += ["--firmware", "uefi", "--firmware-vars", os.path.join(self.folder, "vars")]
        return command + self.options

    def press_power_button(self, limit):
        result = subprocess.run([self.program, "stop", "--timeout", str(int(limit)), self.vm], capture_output=True,
                                text=True)
        if result.returncode != 0:
            raise Failed(f"nestor stop: {(result.stderr.strip().splitlines() or ['no word'])[-1]}")


class Qemu(Pc):
    name = "QEMU"

    def command(self):
        command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", self.memory,
                   "-smp", str(self.cpus), "-nodefaults", "-display", "none", "-serial", "stdio", "-vga", "std",
                   "-drive", f"file={self.image},format=raw,if=virtio,snapshot=on",
                   "-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{self.port}-:22",
                   "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        if self.firmware == "efi":
            variables = os.path.join(self.folder, "vars")
            shutil.copyfile(f"{OVMF}/OVMF_VARS_4M.fd", variables)
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                        "-drive", f"if=pflash,format=raw,file={variables}"]
        return command + self.options

    def press_power_button(self, limit):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(limit)
                client.connect(f"{self.folder}/qmp")
                stream = client.makefile("rw")
                stream.readline()
                for command in ("qmp_capabilities", "system_powerdown"):
                    stream.write(json.dumps({"execute": command}) + "\n")
                    stream.flush()
                    stream.readline()
        except OSError as error:
            raise Failed(f"QEMU's monitor: {error}") from error


def image_or_exit(path):
    for name in (path, path + ".key", path + ".known_hosts"):
        if not os.path.exists(name):
            print(f"{os.path.basename(sys.argv[0])}: {name} is missing; scripts/image/build {path} makes it",
                  file=sys.stderr)
            sys.exit(2)
    # ssh takes a key that only its owner can read.
    return os.path.abspath(path)
