"""The kernel package's modules, for initramfs that need drivers: unpacked once into .cache/debian/tree."""
import glob
import os
import re
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
cache = os.environ.get("NESTOR_CACHE", os.path.join(here, "..", "..", ".cache"))
debian, guest = os.path.join(cache, "debian"), os.path.join(cache, "guest")


def unpack():
    """Fetches Debian's kernel where it is missing; returns the folder of its modules. Exits where there is none."""
    os.makedirs(guest, exist_ok=True)
    status = subprocess.call([os.path.join(here, "fetch"), debian])
    if status:
        sys.exit(status)
    version = open(os.path.join(debian, "version")).read().strip()
    tree = os.path.join(debian, "tree")
    folder = os.path.join(tree, "lib", "modules", version)
    if not os.path.isdir(folder):
        packages = glob.glob(os.path.join(debian, f"linux-image-{version}_*.deb"))
        if not packages:
            sys.exit(f"{sys.argv[0]}: no package of {version} in {debian}; remove {debian}/vmlinuz and try again")
        subprocess.check_call(["dpkg-deb", "-x", packages[0], tree])
    return folder


def in_order(wanted):
    """(name, path) of the modules and of what they depend on, each after what it needs; what is missing is built in."""
    paths, order = {}, []
    for directory, _, names in os.walk(unpack()):
        for name in names:
            if name.endswith(".ko"):
                paths[name[:-3].replace("-", "_")] = os.path.join(directory, name)

    def add(name):
        if name in order or name not in paths:
            return
        found = re.search(rb"\0depends=([^\0]*)\0", open(paths[name], "rb").read())
        for needed in found.group(1).decode().split(",") if found else []:
            add(needed.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return [(name, paths[name]) for name in order]
