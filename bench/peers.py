"""Those that Nestor is measured against, each on the same kernel, initramfs and command line.

A peer is a function (machine, work) -> (command, serial, ended) for phases.run; work is an empty folder of its own.
"""
import collections
import os
import pty
import shutil
import subprocess
import tty

# kernel, initrd: paths; append: the kernel's command line; memory: MiB of RAM.
Machine = collections.namedtuple("Machine", "kernel initrd append memory")


def nestor(binary):
    # An older one, measured as the peer "before", may have no cache to switch off.
    described = subprocess.run([binary, "run", "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    uncached = ["--kernel-cache", "off"] if b"--kernel-cache" in described else []

    def peer(machine, work):
        # Its peers unpack the kernel each time, too.
        return [binary, "run", "--engine", "soft", *uncached, "--memory", f"{machine.memory}M",
                "--kernel", machine.kernel, "--initrd", machine.initrd, "--append", machine.append], None, None
    return peer


def qemu_tcg(threads):
    """QEMU's translator has no VT-x; its AMD-V carries KVM-AMD in L1."""
    def peer(machine, work):
        return ["qemu-system-x86_64", "-accel", f"tcg,thread={threads}", "-cpu", "max,+svm", "-m", str(machine.memory),
                "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", machine.kernel,
                "-initrd", machine.initrd, "-append", machine.append], None, None
    return peer


def bochs(machine, work):
    """Bochs interprets a Haswell with VT-x. It loads no kernel itself, so ISOLINUX does, from a CD image."""
    disc = os.path.join(work, "disc")
    os.makedirs(disc)
    shutil.copy("/usr/lib/ISOLINUX/isolinux.bin", disc)
    shutil.copy("/usr/lib/syslinux/modules/bios/ldlinux.c32", disc)
    shutil.copy(machine.kernel, os.path.join(disc, "vmlinuz"))
    shutil.copy(machine.initrd, os.path.join(disc, "l1.cpio"))
    with open(os.path.join(disc, "isolinux.cfg"), "w") as stream:
        stream.write("default l1\nprompt 0\ntimeout 0\nlabel l1\n kernel /vmlinuz\n initrd /l1.cpio\n"
                     f" append {machine.append}\n")
    image = os.path.join(work, "l1.iso")
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", image, "-b", "isolinux.bin", "-c", "boot.cat",
                    "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", disc],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Into a file, Bochs would write through a buffer, and late.
    serial, terminal = pty.openpty()
    tty.setraw(terminal)
    configuration = os.path.join(work, "bochsrc")
    with open(configuration, "w") as stream:
        stream.write(f"""
config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_haswell_4770, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest={machine.memory}, host={machine.memory}
clock: sync=none, time0=utc
ata0: enabled=1
ata0-master: type=cdrom, path={image}, status=inserted
boot: cdrom
com1: enabled=1, mode=term, dev={os.ttyname(terminal)}
log: {os.path.join(work, "log")}
panic: action=fatal
error: action=ignore
info: action=ignore
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0, mode=none
""")
    # Debian's Bochs is built with its debugger, which waits for a command.
    commands = os.path.join(work, "commands")
    with open(commands, "w") as stream:
        stream.write("c\n")
    # Bochs takes its guest's power-off for a reason to panic.
    return ["bochs", "-q", "-f", configuration, "-rc", commands], serial, "off L1"


def missing(name):
    """Why a peer cannot be measured here, or None."""
    files = {"qemu-tcg": ["qemu-system-x86_64"], "qemu-mttcg": ["qemu-system-x86_64"],
             "bochs": ["bochs", "xorriso", "/usr/lib/ISOLINUX/isolinux.bin", "/usr/share/bochs/BIOS-bochs-latest",
                       "/usr/share/bochs/VGABIOS-lgpl-latest"]}
    lacking = [file for file in files.get(name, []) if not (os.path.exists(file) or shutil.which(file))]
    return f"{name} is left out: {', '.join(lacking)} not installed" if lacking else None
