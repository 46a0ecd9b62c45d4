/* Sockets that listen for others: nonblocking, not inherited by programs that are started. */
#ifndef NESTOR_UTIL_LISTEN_H
#define NESTOR_UTIL_LISTEN_H

#include <netinet/in.h>
#include <sys/socket.h>

/*
 * At a path, for this user alone (mode 0600). A socket that a server left there when it was killed is replaced; where
 * somebody has it, or something else has the name, the error is EADDRINUSE. Whoever closes the socket unlinks the path.
 * Returns the socket, or a negative errno: -ENAMETOOLONG where no socket can have this path.
 */
int listen_at_path(const char *path, int backlog);

/* At an address of TCP. Returns the socket, or a negative errno. */
int listen_at_address(const struct sockaddr *address, socklen_t size, int backlog);

#endif
