"""A small Debian repository and a file to fetch, made on the spot and served by HTTP on the host's loopback: what a
guest's apt reads through user-mode networking, without the Internet.

The index is about as large as that of a Debian point release's updates, so that reading it is work; one package in it,
nestor-proof, exists. PUT takes what a guest sends and keeps its checksum.
"""
import gzip
import hashlib
import http.server
import os
import random
import subprocess
import threading

INDEX_ENTRIES = 12000
PAYLOAD_SIZE = 64 << 20
PACKAGE_SIZE = 8 << 20
SUITE = "proof"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def fields(name, version, size, digest, file, more=""):
    return (f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nestor <nobody@localhost>\n{more}"
            f"Section: misc\nPriority: optional\nFilename: {file}\nSize: {size}\nSHA256: {digest}\n"
            f"Description: a package of the test's repository\n")


class Repository:
    """folder: an empty one, for its files. url: where a guest behind user-mode networking finds it."""

    def __init__(self, folder):
        self.folder = folder
        chance = random.Random(4)
        self.payload = chance.randbytes(PAYLOAD_SIZE)
        self.payload_digest = sha256(self.payload)
        self.package_digest = self.make_package(chance.randbytes(PACKAGE_SIZE))
        self.make_index(chance)
        self.received = {}

    def write(self, name, data):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)

    def make_package(self, content):
        self.write("tree/DEBIAN/control", b"Package: nestor-proof\nVersion: 1.0\nArchitecture: all\n"
                   b"Maintainer: Nestor <nobody@localhost>\nDescription: a package of the test's repository\n")
        self.write("tree/usr/share/nestor-proof/content", content)
        os.makedirs(os.path.join(self.folder, "pool"))
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", "tree", "pool/nestor-proof_1.0_all.deb"],
                       cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        return sha256(content)

    def make_index(self, chance):
        with open(os.path.join(self.folder, "pool/nestor-proof_1.0_all.deb"), "rb") as stream:
            package = stream.read()
        entries = [fields("nestor-proof", "1.0", len(package), sha256(package), "pool/nestor-proof_1.0_all.deb")]
        for number in range(INDEX_ENTRIES):
            name = f"nestor-absent-{number}"
            entries.append(fields(name, f"1.{number % 10}", 1000 + number, chance.randbytes(32).hex(),
                                  f"pool/{name}_1_all.deb", f"Depends: nestor-absent-{number // 2}\n"))
        index = "\n".join(entries).encode()
        packed = gzip.compress(index, 6, mtime=0)
        self.index_size = len(index)
        listing = "".join(f" {sha256(data)} {len(data)} main/binary-amd64/{name}\n"
                          for name, data in (("Packages", index), ("Packages.gz", packed)))
        base = f"dists/{SUITE}/"
        self.write(base + "main/binary-amd64/Packages", index)
        self.write(base + "main/binary-amd64/Packages.gz", packed)
        self.write(base + "Release", (f"Origin: Nestor\nSuite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\n"
                                      f"Components: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{listing}").encode())
        self.write("payload", self.payload)

    def __enter__(self):
        repository = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *arguments):
                super().__init__(*arguments, directory=repository.folder)

            def do_PUT(self):
                digest = hashlib.sha256()
                left = int(self.headers["Content-Length"])
                while left and (data := self.rfile.read(min(left, 65536))):
                    digest.update(data)
                    left -= len(data)
                repository.received[self.path] = digest.hexdigest()
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]
        self.url = f"http://10.0.2.2:{self.port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
