"""Those that Nestor is measured against, each on the same kernel, initramfs and command line.

A peer is a function (guest, work) -> (command, serial, ended) for phases.run: guest is the folder of
scripts/guest/build, work an empty folder of its own.
"""
import os
import pty
import shutil
import subprocess
import tty

import phases

MEMORY = 1024  # MiB


def nestor(binary):
    def peer(guest, work):
        return [binary, "run", "--engine", "soft", "--memory", f"{MEMORY}M",
                "--kernel", os.path.join(guest, "vmlinuz"), "--initrd", os.path.join(guest, "l1.cpio"),
                "--append", phases.APPEND], None, None
    return peer


def qemu_tcg(guest, work):
    """QEMU's translator has no VT-x; its AMD-V carries KVM-AMD in L1."""
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,+svm", "-m", str(MEMORY), "-nodefaults",
            "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", os.path.join(guest, "vmlinuz"), "-initrd", os.path.join(guest, "l1.cpio"),
            "-append", phases.APPEND], None, None


def bochs(guest, work):
    """Bochs interprets a Haswell with VT-x. It loads no kernel itself, so ISOLINUX does, from a CD image."""
    disc = os.path.join(work, "disc")
    os.makedirs(disc)
    shutil.copy("/usr/lib/ISOLINUX/isolinux.bin", disc)
    shutil.copy("/usr/lib/syslinux/modules/bios/ldlinux.c32", disc)
    shutil.copy(os.path.join(guest, "vmlinuz"), os.path.join(disc, "vmlinuz"))
    shutil.copy(os.path.join(guest, "l1.cpio"), os.path.join(disc, "l1.cpio"))
    with open(os.path.join(disc, "isolinux.cfg"), "w") as stream:
        stream.write("default l1\nprompt 0\ntimeout 0\nlabel l1\n kernel /vmlinuz\n initrd /l1.cpio\n"
                     f" append {phases.APPEND}\n")
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
memory: guest={MEMORY}, host={MEMORY}
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
