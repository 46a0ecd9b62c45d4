#include "share/changes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/error.h"

extern char **environ;

/* ---- the child, which makes the mount and sends it; after fork: nothing but system calls ---- */

struct child {
	int socket;
	const char *directory, *scratch;
	bool user; /* not root: needs a user namespace */
	char uid_map[32], gid_map[32];
};

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return written;
}

/* Returns a descriptor or a negative errno. */
static int mount_overlay(const struct child *child)
{
	char options[128];
	int fd;

	if (unshare((child->user ? CLONE_NEWUSER : 0) | CLONE_NEWNS))
		return -errno;
	if (child->user && (!write_file("/proc/self/setgroups", "deny") ||
	                    !write_file("/proc/self/uid_map", child->uid_map) ||
	                    !write_file("/proc/self/gid_map", child->gid_map)))
		return -errno;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -errno;
	/* Opened here: what was opened before lies in the other mount namespace. */
	fd = open(child->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || chdir(child->scratch))
		return -errno;
	snprintf(options, sizeof(options), "lowerdir=/proc/self/fd/%d,upperdir=upper,workdir=work%s", fd,
	         child->user ? ",userxattr" : "");
	if (mount("overlay", "merged", "overlay", 0, options))
		return -errno;
	fd = open("merged", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* One number, and with it the descriptor where it is not negative. */
static void send_result(int socket, int result)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {&result, sizeof(result)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (result >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &result, sizeof(int));
	}
	sendmsg(socket, &message, MSG_NOSIGNAL);
}

/* ---- the parent ---- */

static int receive_result(int socket)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	int result = -EIO;
	struct iovec iov = {&result, sizeof(result)};
	struct msghdr message = {.msg_iov = &iov,
	                         .msg_iovlen = 1,
	                         .msg_control = control.bytes,
	                         .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *header;

	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(result))
		return -EIO;
	if (result < 0)
		return result;
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_type != SCM_RIGHTS)
		return -EIO;
	memcpy(&result, CMSG_DATA(header), sizeof(result));
	return result;
}

static int run_child(struct child *child)
{
	int pair[2], result;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	child->socket = pair[1];
	pid = fork();
	if (pid == 0) {
		send_result(child->socket, mount_overlay(child));
		_exit(0);
	}
	result = pid < 0 ? -errno : 0;
	close(pair[1]);
	if (!result)
		result = receive_result(pair[0]);
	close(pair[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return result;
}

static int make_scratch(struct changes *changes)
{
	static const char *const folders[] = {"upper", "work", "merged"};
	const char *place = getenv("TMPDIR");
	char path[PATH_MAX];

	if (!place || !*place)
		place = "/var/tmp";
	if (asprintf(&changes->scratch, "%s/nestor-changes-XXXXXX", place) < 0)
		changes->scratch = NULL;
	else if (!mkdtemp(changes->scratch)) {
		free(changes->scratch);
		changes->scratch = NULL;
	}
	for (unsigned i = 0; i < 3 && changes->scratch; i++) {
		snprintf(path, sizeof(path), "%s/%s", changes->scratch, folders[i]);
		if (mkdir(path, 0755))
			break;
		if (i == 2)
			return 0;
	}
	return error_set(errno, "copy-on-write: cannot make a folder in %s for the changes (TMPDIR): %s",
	                 place, strerror(errno));
}

/* Folders that the guest made unreadable belong to us as well. */
static void remove_scratch(const char *scratch)
{
	char *const argv[] = {
	    "sh", "-c", "chmod -R u+rwx \"$1\" 2>/dev/null; rm -rf \"$1\"", "sh", (char *)scratch, NULL};
	pid_t pid;

	if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) == 0)
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
}

void changes_close(struct changes *changes)
{
	if (changes->fd >= 0)
		close(changes->fd);
	if (changes->scratch)
		remove_scratch(changes->scratch);
	free(changes->scratch);
	*changes = (struct changes){.fd = -1};
}

int changes_open(struct changes *changes, const char *directory)
{
	struct child child = {.user = geteuid() != 0, .directory = directory};
	int result;

	*changes = (struct changes){.fd = -1};
	if (access(directory, F_OK))
		return error_set(errno, "%s: cannot share this folder: %s", directory, strerror(errno));
	result = make_scratch(changes);
	if (!result) {
		child.scratch = changes->scratch;
		snprintf(child.uid_map, sizeof(child.uid_map), "%u %u 1", geteuid(), geteuid());
		snprintf(child.gid_map, sizeof(child.gid_map), "%u %u 1", getegid(), getegid());
		result = run_child(&child);
		if (result < 0)
			error_set(-result,
			          "%s: copy-on-write needs overlayfs, which this host refuses (%s): share "
			          "the folder "
			          "readonly, and mount an overlay in the guest",
			          directory, strerror(-result));
	}
	if (result < 0) {
		changes_close(changes);
		return result;
	}
	changes->fd = result;
	return 0;
}
