#include "share/p9_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "util/error.h"
#include "util/hash.h"

#define VERSION  "9P2000.L"
#define NO_FID   UINT32_MAX
#define WALK_MAX 16
#define SIZE_MIN 4096u
#define NO_USER  UINT32_MAX

#define QID_DIRECTORY 0x80
#define QID_LINK      0x02

/* ---- what messages consist of ---- */

int p9_get_text(struct p9_call *call, char *text, size_t size)
{
	size_t length = p9_get16(&call->in);

	if (length > call->in.left)
		call->in.bad = true;
	if (call->in.bad)
		return -EBADMSG;
	if (length >= size)
		return -ENAMETOOLONG;
	memcpy(text, call->in.at, length);
	text[length] = 0;
	call->in.at += length;
	call->in.left -= length;
	return strlen(text) == length ? 0 : -EINVAL;
}

int p9_get_name(struct p9_call *call, char name[NAME_MAX + 1])
{
	int error = p9_get_text(call, name, NAME_MAX + 1);

	return error ? error : tree_name_ok(name) ? 0 : -EINVAL;
}

/* Inode numbers of file systems that are mounted in the shared folder must not collide with its own. */
void p9_put_qid(struct p9_call *call, const struct stat *status)
{
	uint64_t path = status->st_ino;

	if (status->st_dev != call->server->device)
		path = hash_mix(status->st_dev * 0x9e3779b97f4a7c15u ^ path);
	p9_put(&call->out,
	       S_ISDIR(status->st_mode)   ? QID_DIRECTORY
	       : S_ISLNK(status->st_mode) ? QID_LINK
	                                  : 0,
	       1);
	p9_put(&call->out,
	       hash_mix((uint64_t)status->st_mtim.tv_sec ^ (uint64_t)status->st_mtim.tv_nsec << 32 ^
	                (uint64_t)status->st_size << 8),
	       4);
	p9_put(&call->out, path, 8);
}

int p9_put_qid_of(struct p9_call *call, struct p9_fid *parent, const char *name)
{
	struct node *node;
	struct stat status;
	int error = tree_lookup(call->server->tree, parent->node, name, &node);

	if (error)
		return error;
	error = node_stat(call->server->tree, node, &status);
	if (!error)
		p9_put_qid(call, &status);
	node_release(call->server->tree, node);
	return error;
}

unsigned p9_slice(struct iovec *to, const struct iovec *from, unsigned count, size_t offset, size_t size)
{
	unsigned used = 0;

	for (unsigned i = 0; i < count && size && used < IOV_MAX; i++) {
		size_t room = from[i].iov_len;

		if (offset >= room) {
			offset -= room;
			continue;
		}
		room -= offset;
		room = room < size ? room : size;
		to[used++] = (struct iovec){(uint8_t *)from[i].iov_base + offset, room};
		offset = 0;
		size -= room;
	}
	return used;
}

/* ---- fids ---- */

struct p9_fid *p9_find_fid(struct p9_server *server, uint32_t number)
{
	struct p9_fid *fid = server->fid[number % P9_FID_TABLE];

	while (fid && fid->number != number)
		fid = fid->next;
	return fid;
}

struct p9_fid *p9_get_fid(struct p9_call *call)
{
	uint32_t number = p9_get32(&call->in);

	return call->in.bad ? NULL : p9_find_fid(call->server, number);
}

/* Takes the held node over, also where it fails. */
static int make_fid(struct p9_server *server, uint32_t number, uint32_t user, struct node *node)
{
	struct p9_fid *fid = NULL;
	int error = 0;

	if (number == NO_FID)
		error = -EBADF;
	else if (p9_find_fid(server, number))
		error = -EEXIST;
	else if (server->fid_count >= P9_FIDS_MAX)
		error = -ENFILE;
	else if (!(fid = malloc(sizeof(*fid))))
		error = -ENOMEM;
	if (error) {
		node_release(server->tree, node);
		return error;
	}
	*fid = (struct p9_fid){.next = server->fid[number % P9_FID_TABLE],
	                       .number = number,
	                       .user = user,
	                       .node = node,
	                       .fd = -1};
	server->fid[number % P9_FID_TABLE] = fid;
	server->fid_count++;
	return 0;
}

void p9_drop_fid(struct p9_server *server, struct p9_fid *fid)
{
	struct p9_fid **link = &server->fid[fid->number % P9_FID_TABLE];

	while (*link != fid)
		link = &(*link)->next;
	*link = fid->next;
	server->fid_count--;
	if (fid->fd >= 0) {
		close(fid->fd);
		server->open_count--;
	}
	node_release(server->tree, fid->node);
	free(fid);
}

void p9_reset(struct p9_server *server)
{
	for (unsigned i = 0; i < P9_FID_TABLE; i++)
		while (server->fid[i])
			p9_drop_fid(server, server->fid[i]);
	server->size_max = P9_SIZE_MAX;
}

/* ---- the session ---- */

static int version(struct p9_call *call)
{
	uint32_t size = p9_get32(&call->in);
	char text[32];
	int error = p9_get_text(call, text, sizeof(text));

	if (error == -EBADMSG)
		return error;
	if (size < SIZE_MIN)
		return -EMSGSIZE;
	p9_reset(call->server);
	call->server->size_max = size < P9_SIZE_MAX ? size : P9_SIZE_MAX;
	p9_put(&call->out, call->server->size_max, 4);
	p9_put_string(&call->out, !error && strcmp(text, VERSION) == 0 ? VERSION : "unknown");
	return 0;
}

/* No authentication: who runs the VM has decided. */
static int auth(struct p9_call *call)
{
	return -EOPNOTSUPP;
}

static int attach(struct p9_call *call)
{
	struct p9_server *server = call->server;
	uint32_t number = p9_get32(&call->in), user;
	char name[256], folder[256];
	struct stat status;
	struct node *root;
	int error;

	p9_get32(&call->in); /* afid */
	error = p9_get_text(call, name, sizeof(name));
	if (!error)
		error = p9_get_text(call, folder, sizeof(folder));
	if (error)
		return error;
	user = p9_get32(&call->in);
	if (call->in.bad)
		user = NO_USER; /* plain 9P2000 has no number there */
	call->in.bad = false;
	if (strcmp(folder, "") != 0 && strcmp(folder, "/") != 0)
		return -ENOENT;
	root = tree_root(server->tree);
	error = node_stat(server->tree, root, &status);
	if (error) {
		node_release(server->tree, root);
		return error;
	}
	error = make_fid(server, number, user, root);
	if (!error)
		p9_put_qid(call, &status);
	return error;
}

static int flush(struct p9_call *call)
{
	return 0; /* requests are answered in order: the old one has been */
}

static int clunk(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call);

	if (!fid)
		return -EBADF;
	p9_drop_fid(call->server, fid);
	return 0;
}

/* One name further: the node is held for the caller. ".." of the shared folder is itself. */
static int step(struct p9_server *server, struct node *from, const char *name, struct node **to)
{
	if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
		return tree_lookup(server->tree, from, name, to);
	*to = name[1] && from->parent ? from->parent : from;
	node_hold(*to);
	return 0;
}

/* Walks `count` names from *node (held, and replaced as it goes on), putting qids. Returns how far it came.
 */
static unsigned walk_names(struct p9_call *call, struct node **node, unsigned count, int *error)
{
	for (unsigned i = 0; i < count; i++) {
		char name[NAME_MAX + 1];
		struct node *next;
		struct stat status;

		*error = p9_get_text(call, name, sizeof(name));
		if (!*error && !S_ISDIR((*node)->type))
			*error = -ENOTDIR;
		if (!*error)
			*error = step(call->server, *node, name, &next);
		if (*error)
			return i;
		node_release(call->server->tree, *node);
		*node = next;
		*error = node_stat(call->server->tree, next, &status);
		if (*error)
			return i;
		p9_put_qid(call, &status);
	}
	return count;
}

static int walk(struct p9_call *call)
{
	struct p9_server *server = call->server;
	struct p9_fid *fid = p9_get_fid(call);
	uint32_t number = p9_get32(&call->in);
	unsigned count = p9_get16(&call->in), done;
	size_t count_place = call->out.size;
	struct node *node;
	int error = 0;

	if (!fid)
		return -EBADF;
	if (count > WALK_MAX || call->in.bad)
		return -EINVAL;
	if (number != fid->number && p9_find_fid(server, number))
		return -EEXIST;
	if (fid->fd >= 0 && number == fid->number)
		return -EBUSY;
	p9_put(&call->out, count, 2);
	node = fid->node;
	node_hold(node);
	done = walk_names(call, &node, count, &error);
	if (done < count || number == fid->number) {
		struct node *old = fid->node;

		if (done == count)
			fid->node = node;
		node_release(server->tree, done == count ? old : node);
		call->out.start[count_place] = (uint8_t)done;
		return done || !count ? 0 : error;
	}
	return make_fid(server, number, fid->user, node);
}

/* ---- messages ---- */

struct message {
	p9_handler *handle;
	bool changes; /* refused where the share is read-only */
};

static const struct message messages[] = {
    [P9_TVERSION] = {version, false},
    [P9_TAUTH] = {auth, false},
    [P9_TATTACH] = {attach, false},
    [P9_TFLUSH] = {flush, false},
    [P9_TWALK] = {walk, false},
    [P9_TCLUNK] = {clunk, false},
    [P9_TLOPEN] = {p9_lopen, false},
    [P9_TLCREATE] = {p9_lcreate, true},
    [P9_TREAD] = {p9_read, false},
    [P9_TWRITE] = {p9_write, true},
    [P9_TREADDIR] = {p9_readdir, false},
    [P9_TFSYNC] = {p9_fsync, false},
    [P9_TLOCK] = {p9_lock, false},
    [P9_TGETLOCK] = {p9_getlock, false},
    [P9_TSYMLINK] = {p9_symlink, true},
    [P9_TMKNOD] = {p9_mknod, true},
    [P9_TRENAME] = {p9_rename, true},
    [P9_TREADLINK] = {p9_readlink, false},
    [P9_TLINK] = {p9_link, true},
    [P9_TMKDIR] = {p9_mkdir, true},
    [P9_TRENAMEAT] = {p9_renameat, true},
    [P9_TUNLINKAT] = {p9_unlinkat, true},
    [P9_TREMOVE] = {p9_remove, true},
    [P9_TGETATTR] = {p9_getattr, false},
    [P9_TSETATTR] = {p9_setattr, true},
    [P9_TSTATFS] = {p9_statfs, false},
    [P9_TXATTRWALK] = {p9_xattrwalk, false},
    [P9_TXATTRCREATE] = {p9_xattrcreate, true},
};

static int dispatch(struct p9_call *call, uint8_t type)
{
	const struct message *message =
	    type < sizeof(messages) / sizeof(messages[0]) ? &messages[type] : NULL;
	int error;

	if (!message || !message->handle)
		return -EOPNOTSUPP;
	if (message->changes && call->server->read_only && type != P9_TREMOVE)
		return -EROFS;
	error = message->handle(call);
	if (!error && call->in.bad)
		return -EBADMSG;
	return !error && call->out.full ? -EMSGSIZE : error;
}

static size_t copy_in(struct p9_server *server, const struct p9_request *request)
{
	size_t size = 0;

	for (unsigned i = 0; i < request->in_count && size < sizeof(server->in); i++) {
		size_t room = sizeof(server->in) - size;

		room = room < request->in[i].iov_len ? room : request->in[i].iov_len;
		memcpy(server->in + size, request->in[i].iov_base, room);
		size += room;
	}
	return size;
}

static void copy_out(const struct p9_request *request, const uint8_t *from, size_t size)
{
	for (unsigned i = 0; i < request->out_count && size; i++) {
		size_t room = request->out[i].iov_len < size ? request->out[i].iov_len : size;

		memcpy(request->out[i].iov_base, from, room);
		from += room;
		size -= room;
	}
}

static void put_header(uint8_t *at, size_t size, uint8_t type, uint16_t tag)
{
	struct p9_writer header = {at, 0, P9_HEADER, false};

	p9_put(&header, size, 4);
	p9_put(&header, type, 1);
	p9_put(&header, tag, 2);
}

size_t p9_handle(struct p9_server *server, const struct p9_request *request)
{
	struct p9_call call = {.server = server, .request = request};
	struct p9_reader header = {server->in, copy_in(server, request), false};
	uint32_t size = p9_get32(&header);
	uint8_t type = p9_get8(&header);
	uint16_t tag = p9_get16(&header);
	size_t room = request->out_size < sizeof(server->out) ? request->out_size : sizeof(server->out);
	int error;

	if (header.bad || size < P9_HEADER || room < P9_HEADER + 4)
		return 0;
	call.in = header;
	if (call.in.left > size - P9_HEADER)
		call.in.left = size - P9_HEADER;
	call.out = (struct p9_writer){server->out, P9_HEADER, room, false};
	/* The bytes of a write stay where they are; nothing else is that long. */
	if (size > request->in_size)
		error = -EBADMSG;
	else if (size > sizeof(server->in) && type != P9_TWRITE)
		error = -ENAMETOOLONG;
	else
		error = dispatch(&call, type);
	if (error) {
		call.out.size = P9_HEADER;
		call.out.full = false;
		call.data = 0;
		p9_put(&call.out, (uint32_t)-error, 4);
		type = P9_RLERROR - 1;
	}
	put_header(server->out, call.out.size + call.data, (uint8_t)(type + 1), tag);
	copy_out(request, server->out, call.out.size);
	return call.out.size + call.data;
}

/* ---- */

static int open_tree_of(struct p9_server *server, const struct p9_config *config)
{
	int fd = -1, error;

	if (config->copy_on_write) {
		error = changes_open(&server->changes, config->directory);
		fd = error ? error : fcntl(server->changes.fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return fd;
	} else {
		fd = open(config->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return error_set(errno, "%s: cannot share this folder: %s", config->directory,
			                 strerror(errno));
	}
	return tree_create(&server->tree, fd, config->descriptors / 2);
}

int p9_create(struct p9_server **result, const struct p9_config *config)
{
	struct p9_server *server = calloc(1, sizeof(*server));
	struct stat status;
	struct node *root;
	int error;

	if (!server)
		return error_set(ENOMEM, "out of memory");
	server->changes.fd = -1;
	error = access("/proc/self/fd", X_OK) ? error_set(errno, "sharing folders needs /proc mounted") : 0;
	if (!error)
		error = open_tree_of(server, config);
	if (error) {
		changes_close(&server->changes);
		free(server);
		return error;
	}
	root = tree_root(server->tree);
	if (node_stat(server->tree, root, &status) == 0)
		server->device = status.st_dev;
	node_release(server->tree, root);
	server->read_only = config->read_only;
	server->root = geteuid() == 0;
	server->open_max = config->descriptors / 2 < 16 ? 16 : config->descriptors / 2;
	server->size_max = P9_SIZE_MAX;
	*result = server;
	return 0;
}

void p9_destroy(struct p9_server *server)
{
	if (!server)
		return;
	p9_reset(server);
	tree_destroy(server->tree);
	changes_close(&server->changes);
	free(server);
}
