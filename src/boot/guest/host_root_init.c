/*
 * The init of `nestor run --host-root`, the first program in the guest: loads the modules that the kernel
 * needs, mounts the host's root file system by 9p (with a writable layer in the guest's memory where that is
 * wanted), makes it the root, runs the user's command, and tells its exit status through port F4h. It runs
 * before there is any library, so it has none: system calls only. What it needs to know stands in /nestor of
 * its initramfs (boot/host_root.c).
 */
#include <asm/unistd.h>
#include <linux/reboot.h>
#include <stddef.h>
#include <stdint.h>

#define MS_RDONLY 1
#define MS_NOSUID 2
#define MS_NODEV  4
#define MS_BIND   4096
#define MS_MOVE   8192

#define O_RDONLY 0
#define O_RDWR   2

#define EEXIST  17
#define SIGCHLD 17

#define TCGETS    0x5401
#define TCSETS    0x5402
#define TCSBRK    0x5409
#define TIOCSCTTY 0x540e
#define OPOST     1
#define ECHO      010

#define AF_INET      2
#define SOCK_DGRAM   2
#define SIOCSIFFLAGS 0x8914
#define IFF_UP       1

#define DEBUG_EXIT_PORT 0xf4
#define TEXT_MAX        16384
#define WORDS_MAX       512

struct termios {
	unsigned input, output, control, local;
	unsigned char line, characters[19];
};

/* ---- what a C library would have ---- */

static long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
	                 : "rcx", "r11", "memory");
	return result;
}

#define CALL(number, a, b, c, d, e) call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

void *memset(void *to, int value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((volatile char *)to)[i] = (char)value;
	return to;
}

static size_t length_of(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	return length;
}

static int starts(const char *text, const char *with)
{
	while (*with)
		if (*text++ != *with++)
			return 0;
	return 1;
}

/* Puts the parts (NULL at the end) together; what has no room is cut. */
static char *join(char *to, size_t room, const char *const *part)
{
	size_t length = 0;

	for (; *part; part++)
		for (const char *p = *part; *p && length + 1 < room; p++)
			to[length++] = *p;
	to[length] = 0;
	return to;
}

#define JOIN(to, ...) join(to, sizeof(to), (const char *const[]){__VA_ARGS__, NULL})

static void say(const char *text)
{
	CALL(__NR_write, 2, text, length_of(text), 0, 0);
}

/* Reads a small file whole; returns its length, 0 where there is none. */
static size_t read_file(const char *path, char *text, size_t room)
{
	long fd = CALL(__NR_open, path, O_RDONLY, 0, 0, 0), got;
	size_t size = 0;

	if (fd < 0)
		return 0;
	while (size + 1 < room && (got = CALL(__NR_read, fd, text + size, room - 1 - size, 0, 0)) > 0)
		size += (size_t)got;
	text[size] = 0;
	CALL(__NR_close, fd, 0, 0, 0, 0);
	return size;
}

static long mount(const char *what, const char *where, const char *type, unsigned long flags,
                  const char *options)
{
	return CALL(__NR_mount, what, where, type, flags, options);
}

/* ---- the end ---- */

/* The machine stops at the write; what follows is for a kernel that forbids ports. */
__attribute__((noreturn)) static void finish(unsigned status)
{
	CALL(__NR_ioctl, 1, TCSBRK, 1, 0, 0);
	CALL(__NR_sync, 0, 0, 0, 0, 0);
	if (CALL(__NR_ioperm, DEBUG_EXIT_PORT, 1, 1, 0, 0) == 0)
		__asm__ volatile("outb %b0, %w1" : : "a"(status), "Nd"((uint16_t)DEBUG_EXIT_PORT));
	CALL(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0, 0);
	for (;;)
		CALL(__NR_pause, 0, 0, 0, 0, 0);
}

__attribute__((noreturn)) static void fail(const char *what, const char *hint)
{
	say("nestor: ");
	say(what);
	say(": ");
	say(hint);
	say("\n");
	finish(125);
}

/* ---- the settings: lines of "key=value" ---- */

static char settings[TEXT_MAX];

static const char *setting(const char *key)
{
	static const char none[] = "";

	for (const char *line = settings; *line; line += length_of(line) + 1)
		if (starts(line, key) && line[length_of(key)] == '=')
			return line + length_of(key) + 1;
	return none;
}

/* Lines become strings, one after the other, an empty one at the end. */
static void read_settings(void)
{
	size_t size = read_file("/nestor/settings", settings, sizeof(settings) - 1);

	for (size_t i = 0; i < size; i++)
		if (settings[i] == '\n')
			settings[i] = 0;
}

/* ---- the way to the root ---- */

static void load_modules(void)
{
	static char order[TEXT_MAX];
	char path[256];
	size_t size = read_file("/nestor/modules", order, sizeof(order));

	for (char *name = order, *p = order; p < order + size; p++) {
		long fd, result;

		if (*p != '\n')
			continue;
		*p = 0;
		fd = CALL(__NR_open, JOIN(path, "/nestor/", name, ".ko"), O_RDONLY, 0, 0, 0);
		result = fd < 0 ? fd : CALL(__NR_finit_module, fd, "", 0, 0, 0);
		if (result < 0 && result != -EEXIST)
			fail(name, "the kernel does not load this module; are the modules (--modules) of "
			           "this kernel?");
		CALL(__NR_close, fd, 0, 0, 0, 0);
		name = p + 1;
	}
}

static void open_console(const char *path)
{
	long fd = CALL(__NR_open, path, O_RDWR, 0, 0, 0);

	for (long i = 0; fd >= 0 && i < 3; i++)
		CALL(__NR_dup2, fd, i, 0, 0, 0);
	if (fd > 2)
		CALL(__NR_close, fd, 0, 0, 0, 0);
}

static void mount_root(void)
{
	static const char options[] = "version=9p2000.L,trans=virtio,msize=512000,cache=loose";
	int copy = *setting("mode") == 'c';

	if (mount("nestor-root", copy ? "/host" : "/new", "9p", MS_RDONLY, options))
		fail("cannot mount the host's root file system",
		     "the kernel needs CONFIG_VIRTIO_PCI, CONFIG_NET_9P_VIRTIO and CONFIG_9P_FS, built in or "
		     "as modules "
		     "in --modules DIR");
	if (!copy)
		return;
	if (mount("tmpfs", "/changes", "tmpfs", 0, NULL) ||
	    CALL(__NR_mkdir, "/changes/upper", 0755, 0, 0, 0) ||
	    CALL(__NR_mkdir, "/changes/work", 0755, 0, 0, 0) ||
	    mount("overlay", "/new", "overlay", 0,
	          "lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work"))
		fail("cannot make a layer for changes over the host's root",
		     "the kernel needs CONFIG_OVERLAY_FS and CONFIG_TMPFS, or use --host-root=ro");
}

/* What a root file system has that is not of a disk. Where the host has no such folder there will be none. */
static void mount_rest(void)
{
	mount("proc", "/new/proc", "proc", 0, NULL);
	mount("sysfs", "/new/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/new/dev", "devtmpfs", 0, NULL);
	CALL(__NR_mkdir, "/new/dev/pts", 0755, 0, 0, 0);
	CALL(__NR_mkdir, "/new/dev/shm", 01777, 0, 0, 0);
	mount("devpts", "/new/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666");
	mount("tmpfs", "/new/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	mount("tmpfs", "/new/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
	mount("debugfs", "/new/sys/kernel/debug", "debugfs", 0, NULL);
	mount("tracefs", "/new/sys/kernel/tracing", "tracefs", 0, NULL);
	mount("securityfs", "/new/sys/kernel/security", "securityfs", 0, NULL);
	mount("cgroup2", "/new/sys/fs/cgroup", "cgroup2", 0, NULL);
	if (*setting("mode") != 'c') {
		mount("tmpfs", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
		mount("tmpfs", "/new/var/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	}
}

/* The kernel's modules where modprobe looks for them, where they lie elsewhere on the host. */
static void mount_modules(void)
{
	const char *folder = setting("modules"), *version = setting("version");
	char path[256], from[1024];

	if (!*folder || !*version)
		return;
	if (*setting("mode") != 'c')
		mount("tmpfs", "/new/lib/modules", "tmpfs", 0, "mode=755");
	else
		CALL(__NR_mkdir, "/new/lib/modules", 0755, 0, 0, 0);
	CALL(__NR_mkdir, JOIN(path, "/new/lib/modules/", version), 0755, 0, 0, 0);
	mount(JOIN(from, "/new", folder), path, NULL, MS_BIND, NULL);
}

static void enter_root(void)
{
	if (CALL(__NR_chdir, "/new", 0, 0, 0, 0) || mount(".", "/", NULL, MS_MOVE, NULL) ||
	    CALL(__NR_chroot, ".", 0, 0, 0, 0) || CALL(__NR_chdir, "/", 0, 0, 0, 0))
		fail("cannot enter the host's root file system", "this should not happen");
}

static void set_up_host(void)
{
	struct {
		char name[16];
		short flags;
		char rest[22];
	} loopback = {"lo", IFF_UP, {0}};
	long fd = CALL(__NR_socket, AF_INET, SOCK_DGRAM, 0, 0, 0);

	CALL(__NR_sethostname, "nestor", 6, 0, 0, 0);
	if (fd >= 0) {
		CALL(__NR_ioctl, fd, SIOCSIFFLAGS, &loopback, 0, 0);
		CALL(__NR_close, fd, 0, 0, 0, 0);
	}
}

/* ---- the command ---- */

static char words[TEXT_MAX];

/* "word\0word\0…" as an argument vector from `at` on; returns how many. */
static unsigned read_command(const char **argv, unsigned at)
{
	size_t size = read_file("/nestor/command", words, sizeof(words));

	for (size_t i = 0; i < size && at + 1 < WORDS_MAX; i += length_of(words + i) + 1)
		argv[at++] = words + i;
	argv[at] = NULL;
	return at;
}

/* The command's output is the user's as it is, where nobody types. */
static void make_raw(void)
{
	struct termios mode;
	long null = CALL(__NR_open, "/dev/null", O_RDONLY, 0, 0, 0);

	if (CALL(__NR_ioctl, 1, TCGETS, &mode, 0, 0) == 0) {
		mode.output &= ~(unsigned)OPOST;
		mode.local &= ~(unsigned)ECHO;
		CALL(__NR_ioctl, 1, TCSETS, &mode, 0, 0);
	}
	CALL(__NR_dup2, null, 0, 0, 0, 0);
}

__attribute__((noreturn)) static void run_command(const char **argv, unsigned count)
{
	static char term[128];
	const char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	                             "HOME=/root",
	                             "USER=root",
	                             "LOGNAME=root",
	                             "SHELL=/bin/bash",
	                             JOIN(term, "TERM=", setting("term")),
	                             NULL};

	CALL(__NR_setsid, 0, 0, 0, 0, 0);
	open_console("/dev/hvc0");
	CALL(__NR_ioctl, 0, TIOCSCTTY, 1, 0, 0);
	if (*setting("terminal") != '1')
		make_raw();
	if (CALL(__NR_chdir, setting("folder"), 0, 0, 0, 0))
		CALL(__NR_chdir, "/root", 0, 0, 0, 0);
	if (count == 4) { /* no words of the user's: a shell */
		const char *shell[] = {"bash", NULL};

		CALL(__NR_execve, "/bin/bash", shell, environment, 0, 0);
		shell[0] = "sh";
		CALL(__NR_execve, "/bin/sh", shell, environment, 0, 0);
	} else {
		CALL(__NR_execve, "/bin/sh", argv, environment, 0, 0);
	}
	say("nestor: /bin/sh of the host cannot be run in the guest\n");
	CALL(__NR_exit_group, 127, 0, 0, 0, 0);
	for (;;)
		;
}

/* As the first process it is everybody's parent in the end. Returns the command's status as a shell would. */
static unsigned wait_for(long child)
{
	int status = 0;
	long ended;

	do
		ended = CALL(__NR_wait4, -1, &status, 0, 0, 0);
	while (ended != child && (ended > 0 || ended == -4));
	return status & 0x7f ? 128u + (status & 0x7f) : (unsigned)status >> 8 & 0xff;
}

__attribute__((noreturn, used)) static void start(void)
{
	static const char *argv[WORDS_MAX] = {"sh", "-c", "exec \"$@\"", "sh"};
	unsigned count;
	long child;

	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	open_console("/dev/console");
	read_settings();
	count = read_command(argv, 4);
	/* A single word may be a whole command line. */
	if (count == 5) {
		argv[2] = argv[4];
		argv[4] = NULL;
	}
	load_modules();
	open_console("/dev/hvc0");
	mount_root();
	mount_rest();
	mount_modules();
	enter_root();
	set_up_host();
	child = CALL(__NR_fork, 0, 0, 0, 0, 0);
	if (child == 0)
		run_command(argv, count);
	finish(wait_for(child));
}

/* The stack is the kernel's to align, and a call's to expect so. */
__asm__(".globl _start\n_start: xor %ebp, %ebp\nand $-16, %rsp\ncall start\nhlt\n");
