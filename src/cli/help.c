#include "cli/cli.h"

#include <stdarg.h>

int usage_error(const char *command, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "nestor%s%s: ", command ? " " : "", command ? command : "");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return STATUS_USAGE;
}

const struct command commands[] = {
	{"run", "run a virtual machine", help_run, command_run},
	{"check", "say what this host offers and what Nestor will use", help_check, command_check},
	{"cpu-models", "list the guest CPUs that this host can carry", help_cpu_models, command_cpu_models},
	{NULL, NULL, NULL, NULL},
};

const char help_main[] =
	"Usage: nestor COMMAND [OPTIONS]\n"
	"\n"
	"Runs virtual machines whose CPU has VT-x, also where this machine's has none.\n"
	"\n"
	"Commands:\n"
	"  run         run a virtual machine\n"
	"  check       say what this host offers and what Nestor will use\n"
	"  cpu-models  list the guest CPUs that this host can carry\n"
	"\n"
	"  nestor COMMAND --help    options and examples of a command\n"
	"  nestor --version         the version\n"
	"\n"
	"Example:\n"
	"  nestor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --memory 2G\n";

const char help_run[] =
	"Usage: nestor run --kernel FILE [OPTIONS]\n"
	"\n"
	"Guest:\n"
	"  --kernel FILE          Linux bzImage, ELF with a PVH note, or Multiboot 1 image\n"
	"  --initrd FILE          its initial RAM disk\n"
	"  --append TEXT          its command line\n"
	"  --module \"FILE ARGS\"   a Multiboot module; may be repeated\n"
	"  --boot auto|setup      auto: the host unpacks the kernel; setup: the guest does (auto)\n"
	"  --kernel-cache DIR|off where unpacked kernels are kept (~/.cache/nestor)\n"
	"  --firmware FILE        a firmware ROM instead of a kernel\n"
	"\n"
	"Machine:\n"
	"  --memory SIZE          such as 512M or 4G (1G)\n"
	"  --cpus N               number of CPUs (1)\n"
	"  --cpu MODEL[,+F,-F]    guest CPU; see nestor cpu-models (the best this host can carry)\n"
	"  --nested vmx|off       give the guest CPU VT-x (vmx)\n"
	"  --vmx-firmware on|off|unlocked   what firmware left in IA32_FEATURE_CONTROL (on)\n"
	"  --hypervisor-leaf on|off         tell the guest that it is virtual (on)\n"
	"  --engine auto|soft|kvm auto takes KVM only where a trial machine runs on it (auto)\n"
	"  --clock real|deterministic       deterministic: time is counted in instructions (real)\n"
	"  --tsc HZ               frequency of the guest's time-stamp counter (the host's; deterministic: 1 GHz)\n"
	"  --serial WHERE         stdio, pty, null, file:PATH or unix:PATH; twice for COM2 (stdio)\n"
	"  --console WHERE        a virtio console (hvc0 in Linux), as --serial; may be repeated\n"
	"  --rng                  a source of random numbers (virtio-rng)\n"
	"  --disk FILE[,OPTIONS]  a disk: a raw, qcow2, vmdk, vhdx or vdi image, a block device or nbd://…;\n"
	"                         OPTIONS: format=raw|qcow2|…, readonly, snapshot (writes are dropped at the end),\n"
	"                         if=virtio|ahci (virtio), serial=TEXT, bootindex=N; may be repeated\n"
	"  --cdrom FILE[,OPTIONS] a CD in an AHCI drive; OPTIONS: format=, serial=, bootindex=\n"
	"  --on-reset stop|restart          what a guest's reset does (stop)\n"
	"\n"
	"Looking inside:\n"
	"  --trace LIST           of vmx, exception, block, msr, io, separated by commas\n"
	"  --tune NAME=off[,…]    switch a part of the translator off to find a wrong result\n"
	"  --tune list            the names, and what each switches\n"
	"  --state-hash           print a hash of the final registers and memory\n"
	"\n"
	"On the terminal, Ctrl-A x leaves and Ctrl-A h lists the other keys.\n"
	"Exit status: 0 after a clean shutdown, 2 for bad input, (value << 1) | 1 when the guest\n"
	"writes value to port 0xf4.\n"
	"\n"
	"Examples:\n"
	"  nestor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n"
	"  nestor run --kernel vmlinuz --initrd initrd.img --append console=hvc0 --console stdio\n"
	"  nestor run --kernel xen --module \"vmlinuz console=hvc0\" --module initrd.img --memory 2G\n"
	"  nestor run --kernel test.elf --nested vmx --trace vmx --serial null\n";

const char help_check[] =
	"Usage: nestor check\n"
	"\n"
	"Says in plain words whether this host has VT-x or AMD-V, whether KVM works, what another\n"
	"hypervisor holds, which engine Nestor will therefore use, and the commands that would enable\n"
	"more. Changes nothing and needs no privileges.\n"
	"\n"
	"Example:\n"
	"  nestor check\n";

const char help_cpu_models[] =
	"Usage: nestor cpu-models\n"
	"\n"
	"Lists the names that nestor run --cpu takes and whether this host can carry them.\n"
	"\n"
	"Examples:\n"
	"  nestor cpu-models\n"
	"  nestor run --cpu x86-64-v2,+aes --kernel vmlinuz\n";
