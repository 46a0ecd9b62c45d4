#!/usr/bin/env python3
"""Writes an initramfs (cpio, format newc) that depends on nothing but its inputs.

cpio.py OUTPUT ENTRY...  where an ENTRY is
  dir:PATH            a directory
  file:PATH=SOURCE    a file, mode 0644, or 0755 when SOURCE is executable
  link:PATH=TARGET    a symbolic link
  tree:PATH=SOURCE    a folder with all that is in it
Parent directories are made as needed. Everything belongs to root and has no time.
"""
import os
import sys


def entry(number, path, mode, data, links=1):
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def main():
    output, items = sys.argv[1], sys.argv[2:]
    archive = []
    made = set()

    def directory(path):
        if path and path not in made:
            directory(os.path.dirname(path))
            made.add(path)
            archive.append(entry(len(archive) + 1, path, 0o040755, b"", 2))

    def tree(path, source):
        directory(path)
        for name in sorted(os.listdir(source)):
            inner, at = os.path.join(path, name), os.path.join(source, name)
            if os.path.islink(at):
                add(f"link:{inner}={os.readlink(at)}")
            elif os.path.isdir(at):
                tree(inner, at)
            else:
                add(f"file:{inner}={at}")

    def add(item):
        kind, _, rest = item.partition(":")
        path, _, source = rest.partition("=")
        directory(path if kind in ("dir", "tree") else os.path.dirname(path))
        if kind == "file":
            with open(source, "rb") as stream:
                data = stream.read()
            mode = 0o100755 if os.access(source, os.X_OK) else 0o100644
            archive.append(entry(len(archive) + 1, path, mode, data))
        elif kind == "link":
            archive.append(entry(len(archive) + 1, path, 0o120777, source.encode()))
        elif kind == "tree":
            tree(path, source)
        elif kind != "dir":
            sys.exit(f"cpio.py: {item}: not dir:, file:, link: or tree:")

    for item in items:
        add(item)
    archive.append(entry(0, "TRAILER!!!", 0, b""))
    temporary = output + ".new"
    with open(temporary, "wb") as stream:
        stream.write(b"".join(archive))
    os.replace(temporary, output)


if __name__ == "__main__":
    main()
