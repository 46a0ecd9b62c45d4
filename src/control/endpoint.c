#include "control/endpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util/error.h"
#include "util/listen.h"

#define LOCK_SUFFIX ".lock"
#define LIST_MAX    1024
#define CLAIM_TRIES 100 /* of 2 ms */

int endpoint_check_name(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
	size_t length = strlen(name);

	if (!length || length > ENDPOINT_NAME_MAX || strspn(name, allowed) != length || *name == '.' ||
	    *name == '-')
		return error_set(EINVAL, "'%s' cannot be a machine's name: 1 to %d letters, digits, '-', '_' and '.', "
		                 "beginning with a letter or digit", name, ENDPOINT_NAME_MAX);
	return 0;
}

/* $XDG_RUNTIME_DIR/nestor, which is the user's by definition, else a folder below /tmp that must prove it. */
static int folder(char *path, size_t size)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	struct stat status;

	int length;

	if (runtime && *runtime == '/')
		length = snprintf(path, size, "%s/nestor", runtime);
	else
		length = snprintf(path, size, "/tmp/nestor-%u", (unsigned)getuid());
	if ((size_t)length >= size)
		return error_set(ENAMETOOLONG,
		                 "XDG_RUNTIME_DIR is too long for sockets: set it to a shorter folder");
	if (mkdir(path, 0700) && errno != EEXIST)
		return error_set(errno, "cannot make the folder %s: %s", path, strerror(errno));
	if (lstat(path, &status))
		return error_set(errno, "cannot use the folder %s: %s", path, strerror(errno));
	if (!S_ISDIR(status.st_mode) || status.st_uid != getuid() || status.st_mode & 077)
		return error_set(EPERM, "%s is not a folder of yours alone (mode 0700): remove it, or set XDG_RUNTIME_DIR",
		                 path);
	return 0;
}

int endpoint_path(const char *name, const char *suffix, char *path)
{
	char base[ENDPOINT_PATH_MAX];
	int result = folder(base, sizeof(base));

	if (result)
		return result;
	if (snprintf(path, ENDPOINT_PATH_MAX, "%s/%s%s", base, name, suffix) >= ENDPOINT_PATH_MAX)
		return error_set(ENAMETOOLONG,
		                 "%s/%s%s is too long for a socket: set XDG_RUNTIME_DIR to a shorter folder",
		                 base, name, suffix);
	return 0;
}

static void remove_file(const char *name, const char *suffix)
{
	char path[ENDPOINT_PATH_MAX];

	if (!endpoint_path(name, suffix, path))
		unlink(path);
}

static void remove_sockets(const char *name)
{
	static const char *const suffix[] = {".sock", ".serial0", ".serial1", ".serial2", ".serial3"};

	for (size_t i = 0; i < sizeof(suffix) / sizeof(suffix[0]); i++)
		remove_file(name, suffix[i]);
}

/* A lock of the open file: it is kept over fork(), and others can ask for it without taking it. */
static int lock_command(int fd, int command, struct flock *lock)
{
	*lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
	return fcntl(fd, command, lock);
}

/* Who removes a lock file holds it; who opened it before that finds another file, or none, at its path. */
static bool is_current(int fd, const char *path)
{
	struct stat open_file, present;

	return !fstat(fd, &open_file) && !stat(path, &present) && open_file.st_ino == present.st_ino &&
	       open_file.st_dev == present.st_dev;
}

int endpoint_claim(struct endpoint *endpoint, const char *name)
{
	char path[ENDPOINT_PATH_MAX];
	int result = endpoint_check_name(name), fd;
	const struct timespec moment = {0, 2000000};
	unsigned tries = 0;
	struct flock lock;

	endpoint->lock_fd = -1;
	if (!result)
		result = endpoint_path(name, LOCK_SUFFIX, path);
	if (result)
		return result;
	for (;;) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return error_set(errno, "cannot open %s: %s", path, strerror(errno));
		if (lock_command(fd, F_OFD_SETLK, &lock)) {
			int pid = endpoint_owner(name);

			close(fd);
			if (!pid && tries++ < CLAIM_TRIES) { /* somebody sweeps, or has just begun */
				nanosleep(&moment, NULL);
				continue;
			}
			return error_set(EEXIST, "a machine named %s runs already (process %d): choose another name, or "
			                 "end it with nestor stop %s", name, pid, name);
		}
		if (is_current(fd, path))
			break;
		close(fd);
	}
	snprintf(endpoint->name, sizeof(endpoint->name), "%s", name);
	endpoint->lock_fd = fd;
	endpoint_set_owner(endpoint);
	remove_sockets(name);
	remove_file(name, ".log");
	return 0;
}

void endpoint_set_owner(struct endpoint *endpoint)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	if (ftruncate(endpoint->lock_fd, 0) || pwrite(endpoint->lock_fd, text, (size_t)length, 0) < 0)
		return; /* the machine runs all the same; only `nestor ps` cannot name its process */
}

void endpoint_release(struct endpoint *endpoint)
{
	char path[ENDPOINT_PATH_MAX];
	struct stat status;

	if (endpoint->lock_fd < 0)
		return;
	remove_sockets(endpoint->name);
	if (!endpoint_path(endpoint->name, ".log", path) && !stat(path, &status) && status.st_size == 0)
		unlink(path);
	remove_file(endpoint->name, LOCK_SUFFIX);
	close(endpoint->lock_fd);
	endpoint->lock_fd = -1;
}

int endpoint_owner(const char *name)
{
	char path[ENDPOINT_PATH_MAX], text[16] = "";
	struct flock lock;
	int fd, pid = 0;

	if (endpoint_path(name, LOCK_SUFFIX, path))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return 0;
	if (!lock_command(fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK &&
	    read(fd, text, sizeof(text) - 1) > 0)
		pid = atoi(text);
	close(fd);
	return pid;
}

/* Removes what a process that was killed has left, but for its log. */
static void sweep(const char *name)
{
	char path[ENDPOINT_PATH_MAX];
	struct flock lock;
	int fd;

	if (endpoint_path(name, LOCK_SUFFIX, path))
		return;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (!lock_command(fd, F_OFD_SETLK, &lock) && is_current(fd, path)) {
		remove_sockets(name);
		unlink(path);
	}
	close(fd);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

int endpoint_list(void (*found)(void *context, const char *name, int pid), void *context)
{
	char base[ENDPOINT_PATH_MAX], (*names)[ENDPOINT_NAME_MAX + 1];
	int result = folder(base, sizeof(base)), count = 0, live = 0;
	const struct dirent *entry;
	DIR *dir;

	if (result)
		return result;
	dir = opendir(base);
	names = calloc(LIST_MAX, sizeof(names[0]));
	if (!dir || !names) {
		if (dir)
			closedir(dir);
		free(names);
		return error_set(errno, "cannot read the folder %s: %s", base, strerror(errno));
	}
	while ((entry = readdir(dir)) && count < LIST_MAX) {
		size_t length = strlen(entry->d_name), suffix = strlen(LOCK_SUFFIX);

		if (length <= suffix || length - suffix > ENDPOINT_NAME_MAX ||
		    strcmp(entry->d_name + length - suffix, LOCK_SUFFIX) != 0)
			continue;
		memcpy(names[count], entry->d_name, length - suffix);
		count++;
	}
	closedir(dir);
	qsort(names, (size_t)count, sizeof(names[0]), compare_names);
	for (int i = 0; i < count; i++) {
		int pid = endpoint_owner(names[i]);

		if (!pid) {
			sweep(names[i]);
			continue;
		}
		live++;
		if (found)
			found(context, names[i], pid);
	}
	free(names);
	return live;
}

int endpoint_connect(const char *name, const char *suffix)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int result = endpoint_path(name, suffix, address.sun_path), fd;

	if (result)
		return result;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(errno, "cannot make a socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		int error = errno;

		close(fd);
		return error_set(error, "cannot connect to %s: %s", address.sun_path, strerror(error));
	}
	return fd;
}

int endpoint_listen(const char *name, const char *suffix)
{
	char path[ENDPOINT_PATH_MAX];
	int result = endpoint_path(name, suffix, path), fd;

	if (result)
		return result;
	fd = listen_at_path(path, 16);
	return fd < 0 ? error_set(-fd, "cannot listen on %s: %s", path, strerror(-fd)) : fd;
}
