/* Inside the 9P server: sessions and fids (p9_server.c), and the messages by kind (the other p9_*.c). */
#ifndef NESTOR_SHARE_P9_SERVER_H
#define NESTOR_SHARE_P9_SERVER_H

#include <limits.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "share/host_tree.h"
#include "share/changes.h"
#include "share/p9.h"
#include "share/p9_wire.h"

#define P9_MESSAGE_MAX 16384 /* all but read's and write's data: 16 names of NAME_MAX, a link's PATH_MAX */
#define P9_SIZE_MAX    (512u << 10)
#define P9_FIDS_MAX    (256u << 10)
#define P9_FID_TABLE   4096u

/* The client's name for a file. */
struct p9_fid {
	struct p9_fid *next;
	uint32_t number;
	uint32_t user;     /* who attached, by its number */
	struct node *node; /* held */
	int fd;            /* open for reading or writing (or a folder's entries), or -1 */
};

struct p9_server {
	struct tree *tree;
	struct changes changes; /* copy-on-write */
	bool read_only;
	bool root;         /* Nestor runs as root: files get the owners that the guest says */
	dev_t device;      /* of the shared folder itself */
	uint32_t size_max; /* "msize" */
	unsigned fid_count, open_count, open_max;
	struct p9_fid *fid[P9_FID_TABLE];
	uint8_t in[P9_MESSAGE_MAX], out[P9_MESSAGE_MAX];
};

/* A message on its way. */
struct p9_call {
	struct p9_server *server;
	const struct p9_request *request;
	struct p9_reader in;  /* behind the header */
	struct p9_writer out; /* behind the header */
	size_t data;          /* bytes behind `out` that are in the request's buffers already (read) */
};

/* Each reads its message and writes its answer; returns 0, or a negative errno that becomes an Rlerror. */
typedef int p9_handler(struct p9_call *call);
p9_handler p9_lopen, p9_lcreate, p9_read, p9_write, p9_readdir, p9_fsync, p9_lock, p9_getlock;
p9_handler p9_symlink, p9_mknod, p9_rename, p9_readlink, p9_link, p9_mkdir, p9_renameat, p9_unlinkat,
    p9_remove;
p9_handler p9_getattr, p9_setattr, p9_statfs, p9_xattrwalk, p9_xattrcreate;

/* The fid of the number that comes next in the message, or NULL. */
struct p9_fid *p9_get_fid(struct p9_call *call);
struct p9_fid *p9_find_fid(struct p9_server *server, uint32_t number);
/* Closes and forgets. */
void p9_drop_fid(struct p9_server *server, struct p9_fid *fid);

/*
 * The string that comes next. p9_get_text: of any bytes but NUL. p9_get_name: the name of one thing in a
 * folder. Return 0, or -EINVAL or -ENAMETOOLONG; -EBADMSG where the message ends.
 */
int p9_get_text(struct p9_call *call, char *text, size_t size);
int p9_get_name(struct p9_call *call, char name[NAME_MAX + 1]);

/* The client's idea of a file's identity. */
void p9_put_qid(struct p9_call *call, const struct stat *status);
/* Looks the name up below `parent` and puts its qid. Returns 0 or a negative errno. */
int p9_put_qid_of(struct p9_call *call, struct p9_fid *parent, const char *name);

/* The piece of a request's buffers at [offset, offset + size), in as many iovecs as it takes (at most
 * IOV_MAX). */
unsigned p9_slice(struct iovec *to, const struct iovec *from, unsigned count, size_t offset, size_t size);

#endif
