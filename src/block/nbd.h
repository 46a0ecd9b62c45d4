/* Inside src/block/: the client of NBD servers, which qemu_nbd.c uses for the formats that qemu-nbd reads. */
#ifndef NESTOR_BLOCK_NBD_H
#define NESTOR_BLOCK_NBD_H

#include <sys/types.h>

struct block;
struct block_config;

/* A helper process that serves the other end. */
struct nbd_server {
	pid_t pid; /* 0: none */
	int errors; /* where it says what goes wrong; -1: none */
};

/*
 * Takes over a connected socket and the server behind it; where this fails they are closed and ended, and what the
 * server said is in error_text(). format: static text.
 */
int nbd_open_socket(struct block **block, const struct block_config *config, const char *format, int socket,
                    const struct nbd_server *server);

/* Waits until the server has ended by itself, which it does when its client is gone; in the end kills it. */
void nbd_server_end(const struct nbd_server *server);
/* What it said last before it ended, in `size` bytes of text; waits a moment for it. "" where it said nothing. */
void nbd_server_complaint(const struct nbd_server *server, char *text, size_t size);

#endif
