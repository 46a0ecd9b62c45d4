"""For the build-* scripts beside it: the kernel package's modules in the order in which they load, and an initramfs of
busybox, such modules and an init."""
import glob
import os
import re
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
cache = os.environ.get("NESTOR_CACHE", os.path.join(here, "..", "..", ".cache"))
debian, guest = os.path.join(cache, "debian"), os.path.join(cache, "guest")


def kernel_modules():
    """Unpacks the kernel package into .cache/debian/tree where it is not; returns {name: path}, "-" as "_"."""
    os.makedirs(guest, exist_ok=True)
    status = subprocess.call([os.path.join(here, "fetch"), debian])
    if status:
        sys.exit(status)
    with open(os.path.join(debian, "version")) as stream:
        version = stream.read().strip()
    tree = os.path.join(debian, "tree")
    folder = os.path.join(tree, "lib", "modules", version)
    if not os.path.isdir(folder):
        packages = glob.glob(os.path.join(debian, f"linux-image-{version}_*.deb"))
        if not packages:
            sys.exit(f"no package of {version} in {debian}; remove {debian}/vmlinuz and try again")
        subprocess.check_call(["dpkg-deb", "-x", packages[0], tree])
    paths = {}
    for directory, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".ko"):
                paths[name[:-3].replace("-", "_")] = os.path.join(directory, name)
    return paths


def in_order(paths, wanted):
    """The modules and what they depend on, each after its dependencies; what is not there is built in."""
    order = []

    def add(name):
        if name in order or name not in paths:
            return
        with open(paths[name], "rb") as stream:
            found = re.search(rb"\0depends=([^\0]*)\0", stream.read())
        for needed in found.group(1).decode().split(",") if found else []:
            add(needed.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return order


def make(output, wanted, applets, init, more=()):
    """.cache/guest/OUTPUT.cpio: busybox with applets, modules with /modules/order, `init` of this folder, more entries."""
    paths = kernel_modules()
    order = in_order(paths, wanted)
    list_file = os.path.join(guest, output + "-order")
    with open(list_file, "w") as out:
        out.write(" ".join(order) + "\n")
    entries = ["dir:" + name for name in ("proc", "sys", "dev", "tmp")]
    entries += [f"link:bin/{applet}=busybox" for applet in applets.split()]
    entries += [f"file:bin/busybox={debian}/busybox", f"file:init={here}/{init}", f"file:modules/order={list_file}"]
    entries += [f"file:modules/{name}.ko={paths[name]}" for name in order] + list(more)
    subprocess.check_call([os.path.join(here, "cpio.py"), os.path.join(guest, output + ".cpio")] + entries)
