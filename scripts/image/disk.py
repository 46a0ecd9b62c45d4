"""A disk image from a folder that holds a root file system: GPT, GRUB for BIOS and for EFI, ext4. Mounts nothing.

  sector 0            GRUB's boot.img, told where core.img is, and the protective MBR
  1 MiB to 2 MiB      BIOS boot partition: core.img
  2 MiB to 34 MiB     EFI system partition (FAT): EFI/BOOT/BOOTX64.EFI, which firmware takes without being told
  34 MiB to the end   root (ext4)
"""
import os
import struct
import subprocess
import tempfile

SECTOR = 512
MIB = 1 << 20
CORE_START, ESP_START, ROOT_START = 1 * MIB, 2 * MIB, 34 * MIB
GRUB = "/usr/lib/grub"
# What GRUB needs to find its other modules.
CORE_MODULES = ["part_gpt", "ext2", "normal", "configfile", "search", "search_fs_uuid", "linux"]


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def partition(image, size, identity):
    """identity(name) gives a UUID for each name."""
    with open(image, "wb") as stream:
        stream.truncate(size)
    # sgdisk's end of a partition is inclusive; 0 stands for the last usable sector.
    table = [("EF02", "BIOS boot", CORE_START, ESP_START // SECTOR - 1),
             ("EF00", "EFI system", ESP_START, ROOT_START // SECTOR - 1),
             ("8304", "root", ROOT_START, 0)]
    command = ["sgdisk", "--set-alignment=2048", f"--disk-guid={identity('disk')}"]
    for number, (kind, name, start, last) in enumerate(table, 1):
        command += [f"--new={number}:{start // SECTOR}:{last}", f"--typecode={number}:{kind}",
                    f"--change-name={number}:{name}", f"--partition-guid={number}:{identity(name)}"]
    run(*command, image, stdout=subprocess.DEVNULL)


def grub_core(platform, prefix, configuration, modules):
    with tempfile.TemporaryDirectory() as folder:
        config, core = os.path.join(folder, "config"), os.path.join(folder, "core")
        with open(config, "w") as stream:
            stream.write(configuration)
        run("grub-mkimage", "--directory", f"{GRUB}/{platform}", "--format", platform, "--prefix", prefix,
            "--config", config, "--output", core, *CORE_MODULES, *modules)
        with open(core, "rb") as stream:
            return stream.read()


def embed_bios_grub(image, root_uuid):
    """What grub-install does to a disk that it can open, by the layout in GRUB's boot.S and diskboot.S."""
    core = bytearray(grub_core("i386-pc", "(,gpt3)/boot/grub", f"search.fs_uuid {root_uuid} root\n", ["biosdisk"]))
    if len(core) > ESP_START - CORE_START:
        raise ValueError("GRUB's core.img is larger than the BIOS boot partition")
    first = CORE_START // SECTOR
    # diskboot.img, core.img's first sector, ends with one block list: where the rest is, how many sectors, which
    # segment it is loaded to.
    struct.pack_into("<QHH", core, SECTOR - 12, first + 1, (len(core) - 1) // SECTOR, 0x820)
    with open(f"{GRUB}/i386-pc/boot.img", "rb") as stream:
        boot = bytearray(stream.read(SECTOR))
    struct.pack_into("<Q", boot, 0x5C, first)
    boot[0x64] = 0xFF  # the drive that the BIOS booted from
    with open(image, "r+b") as stream:
        # The disk's signature and the partition table stay.
        stream.write(boot[:0x1B8])
        stream.seek(CORE_START)
        stream.write(core)


def make_esp(image, root_uuid):
    configuration = f"search.fs_uuid {root_uuid} root\nset prefix=($root)/boot/grub\n"
    core = grub_core("x86_64-efi", "/boot/grub", configuration, [])
    at = f"{image}@@{ESP_START}"
    sectors = (ROOT_START - ESP_START) // SECTOR
    # MTOOLS_SKIP_CHECK: the "cylinders" of a disk image need not come out even.
    environment = dict(os.environ, MTOOLS_SKIP_CHECK="1")
    with tempfile.NamedTemporaryFile() as loader:
        loader.write(core)
        loader.flush()
        run("mformat", "-i", at, "-T", str(sectors), "-h", "64", "-s", "32", "-v", "ESP", "-N", "4e455354", "::",
            env=environment)
        run("mmd", "-i", at, "::/EFI", "::/EFI/BOOT", env=environment)
        run("mcopy", "-i", at, loader.name, "::/EFI/BOOT/BOOTX64.EFI", env=environment)


def make_root(image, size, folder, root_uuid, identity, time):
    # The last MiB is the backup of the partition table.
    blocks = (size - ROOT_START - MIB) // 1024
    options = f"offset={ROOT_START},lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed={identity('hash seed')}"
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-U", root_uuid, "-m", "1",
        "-O", "^metadata_csum_seed,^orphan_file", "-E", options, "-d", folder, image, f"{blocks}k",
        env=dict(os.environ, E2FSPROGS_FAKE_TIME=str(time)))
