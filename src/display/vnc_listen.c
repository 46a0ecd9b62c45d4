#include "display/vnc_listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/error.h"
#include "util/listen.h"

#define BACKLOG 8

static int read_password(struct vnc_listen *to, const char *path)
{
	char line[64] = "";
	FILE *file = fopen(path, "re");
	size_t length;

	if (!file)
		return error_set(errno, "--vnc: cannot read password-file %s: %s", path, strerror(errno));
	if (!fgets(line, sizeof(line), file) && ferror(file)) {
		int error = errno;

		fclose(file);
		return error_set(error, "--vnc: cannot read password-file %s: %s", path, strerror(error));
	}
	fclose(file);
	length = strcspn(line, "\r\n");
	if (!length || length > VNC_PASSWORD_MAX)
		return error_set(EINVAL,
		                 "--vnc: password-file %s: its first line must be a password of 1 to %d characters "
		                 "(VNC uses no more)",
		                 path, VNC_PASSWORD_MAX);
	memcpy(to->password, line, length);
	to->password[length] = '\0';
	return 0;
}

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)address;

		return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	return address->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

/* fd: of a socket, or a negative errno. */
static int add(struct vnc_listen *to, int fd, const char *name)
{
	if (fd < 0)
		return error_set(-fd, "--vnc %s: cannot listen there: %s%s", name, strerror(-fd),
		                 fd == -EADDRINUSE ? "; give another display, such as :1" : "");
	to->fd[to->count++] = fd;
	return 0;
}

static int open_tcp(struct vnc_listen *to, const struct vnc_address *address)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list, *item;
	char port[8], name[300];
	int result = 0;

	snprintf(port, sizeof(port), "%u", address->port);
	snprintf(name, sizeof(name), "%s:%s", address->host, port);
	result = getaddrinfo(address->host, port, &hints, &list);
	if (result)
		return error_set(EINVAL, "--vnc %s: cannot find this host: %s", name, gai_strerror(result));
	for (item = list; item && !result && to->count < VNC_LISTENERS; item = item->ai_next) {
		int fd;

		if (!is_loopback(item->ai_addr) && !to->password[0]) {
			result = error_set(EACCES,
			                   "--vnc %s: others could reach this screen without a password; add "
			                   "password-file=FILE, or leave the host out for this machine alone",
			                   name);
			break;
		}
		fd = listen_at_address(item->ai_addr, item->ai_addrlen, BACKLOG);
		/* A name may stand for an address family that this host has switched off. */
		if (fd == -EAFNOSUPPORT && item->ai_next)
			continue;
		result = add(to, fd, name);
	}
	freeaddrinfo(list);
	return result;
}

static int open_unix(struct vnc_listen *to, const char *path)
{
	int fd = listen_at_path(path, BACKLOG);

	if (fd == -ENAMETOOLONG)
		return error_set(ENAMETOOLONG, "--vnc unix:%s: a socket's path has at most %zu characters",
		                 path, sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	if (fd >= 0)
		to->path = strdup(path);
	return add(to, fd, path);
}

int vnc_listen_open(struct vnc_listen *to, const struct vnc_address *address)
{
	int result = 0;

	memset(to, 0, sizeof(*to));
	if (address->password_file)
		result = read_password(to, address->password_file);
	if (!result)
		result = address->path ? open_unix(to, address->path) : open_tcp(to, address);
	if (result)
		vnc_listen_close(to);
	return result;
}

void vnc_listen_close(struct vnc_listen *from)
{
	while (from->count)
		close(from->fd[--from->count]);
	if (from->path)
		unlink(from->path);
	free(from->path);
	from->path = NULL;
	explicit_bzero(from->password, sizeof(from->password));
}
