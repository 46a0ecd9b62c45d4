/*
 * A 9P2000.L server for a folder of the host. The caller brings requests, one at a time, from whatever
 * transport; all of them on one thread at a time. Rules: "Plan 9 from Bell Labs, Section 5: 9P" and diod's
 * protocol description for the .L messages, as Linux's client uses them.
 */
#ifndef NESTOR_SHARE_P9_H
#define NESTOR_SHARE_P9_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

struct p9_server;

struct p9_config {
	const char *directory;
	bool read_only;
	bool copy_on_write;   /* changes are gone after p9_destroy */
	unsigned descriptors; /* of the host, that it may have open */
};

/* One message of the client and the room for its answer. */
struct p9_request {
	const struct iovec *in;
	unsigned in_count;
	size_t in_size;
	const struct iovec *out;
	unsigned out_count;
	size_t out_size;
};

/* Returns 0, or a negative errno with error_text(). config's strings are not kept. */
int p9_create(struct p9_server **server, const struct p9_config *config);
/* NULL does nothing. */
void p9_destroy(struct p9_server *server);

/* Forgets the client: all that it has open. */
void p9_reset(struct p9_server *server);

/* Answers a request. Returns the answer's size in bytes; 0: it was no message, or there is no room for an
 * answer. */
size_t p9_handle(struct p9_server *server, const struct p9_request *request);

#endif
