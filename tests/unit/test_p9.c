/*
 * The 9P2000.L server, message by message, on a folder of the test's own: what Linux's client needs, what
 * hostile ones try. Beside the shared folder lies a file that must never be reached.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "share/p9.h"
#include "share/p9_wire.h"
#include "util/error.h"

#define SECRET "what lies outside"

static struct p9_server *server;
static char top[] = "/tmp/nestor-test-9p-XXXXXX", folder[64];
static uint8_t message[65536], answer[600000];
static struct p9_writer out;
static struct p9_reader in;

/* ---- a client ---- */

static void begin(uint8_t type)
{
	out = (struct p9_writer){message, 4, sizeof(message), false};
	p9_put(&out, type, 1);
	p9_put(&out, 7, 2);
}

/* Sends what was put together; returns 0 or the error. `in` is the answer behind its header. */
static int send_message(void)
{
	struct iovec to = {message, out.size}, from = {answer, sizeof(answer)};
	struct p9_request request = {&to, 1, out.size, &from, 1, sizeof(answer)};
	struct p9_writer size = {message, 0, 4, false};
	size_t length;
	uint8_t type;

	p9_put(&size, out.size, 4);
	memset(answer, 0xaa, 64);
	in = (struct p9_reader){answer, p9_handle(server, &request), false};
	assert_true(in.left >= 7);
	length = in.left;
	assert_int_equal(p9_get32(&in), length);
	type = p9_get8(&in);
	assert_int_equal(p9_get16(&in), 7);
	if (type == 7)
		return -(int)p9_get32(&in);
	assert_int_equal(type, message[4] + 1);
	return 0;
}

/* Letters say what follows: b, w, d, q: 1, 2, 4, 8 bytes; s: a string. */
static int call(uint8_t type, const char *format, ...)
{
	va_list arguments;

	begin(type);
	va_start(arguments, format);
	for (; *format; format++) {
		if (*format == 's')
			p9_put_string(&out, va_arg(arguments, const char *));
		else if (*format == 'q')
			p9_put(&out, va_arg(arguments, uint64_t), 8);
		else
			p9_put(&out, va_arg(arguments, unsigned),
			       *format == 'b'   ? 1
			       : *format == 'w' ? 2
			                        : 4);
	}
	va_end(arguments);
	return send_message();
}

static int version(void)
{
	return call(P9_TVERSION, "ds", 131072u, "9P2000.L");
}

static int attach(unsigned fid)
{
	return call(P9_TATTACH, "ddssd", fid, ~0u, "root", "/", 0u);
}

static int walk1(unsigned fid, unsigned new_fid, const char *name)
{
	return call(P9_TWALK, "ddws", fid, new_fid, 1u, name);
}

static int lopen(unsigned fid, unsigned flags)
{
	return call(P9_TLOPEN, "dd", fid, flags);
}

static int clunk(unsigned fid)
{
	return call(P9_TCLUNK, "d", fid);
}

/* Reads a file by name from fid 1; NULL where it cannot. */
static const char *read_file(const char *name)
{
	static char text[4096];
	uint32_t size;
	int error = walk1(1, 900, name);

	if (error)
		return NULL;
	error = lopen(900, O_RDONLY);
	if (!error)
		error = call(P9_TREAD, "dqd", 900u, UINT64_C(0), 4000u);
	if (!error) {
		size = p9_get32(&in);
		memcpy(text, in.at, size);
		text[size] = 0;
	}
	assert_int_equal(clunk(900), 0);
	return error ? NULL : text;
}

/* ---- */

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static const char *at(const char *name)
{
	static char path[2][256];
	static unsigned turn;

	snprintf(path[++turn % 2], sizeof(path[0]), "%s/%s", folder, name);
	return path[turn % 2];
}

static void start(bool read_only, unsigned descriptors)
{
	struct p9_config config = {folder, read_only, false, descriptors};

	assert_int_equal(p9_create(&server, &config), 0);
	assert_int_equal(version(), 0);
	assert_int_equal(attach(1), 0);
}

static int setup(void **state)
{
	char path[128];

	strcpy(top + strlen(top) - 6, "XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(path, sizeof(path), "%s/secret", top);
	write_file(path, SECRET);
	snprintf(folder, sizeof(folder), "%s/shared", top);
	assert_int_equal(mkdir(folder, 0755), 0);
	write_file(at("file"), "content");
	assert_int_equal(mkdir(at("sub"), 0755), 0);
	write_file(at("sub/inner"), "inner content");
	assert_int_equal(symlink("../secret", at("relative")), 0);
	assert_int_equal(symlink(path, at("absolute")), 0);
	assert_int_equal(symlink("..", at("up")), 0);
	assert_int_equal(symlink("/", at("root")), 0);
	start(false, 256);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	p9_destroy(server);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void versions(void **state)
{
	assert_int_equal(version(), 0);
	assert_int_equal(p9_get32(&in), 131072);
	assert_int_equal(p9_get16(&in), 8);
	assert_memory_equal(in.at, "9P2000.L", 8);
	assert_int_equal(call(P9_TVERSION, "ds", 1u << 30, "9P2000.L"), 0);
	assert_int_equal(p9_get32(&in), 512 << 10);
	assert_int_equal(call(P9_TVERSION, "ds", 8192u, "9P2000"), 0);
	p9_get32(&in);
	assert_int_equal(p9_get16(&in), 7);
	assert_memory_equal(in.at, "unknown", 7);
	assert_int_equal(call(P9_TVERSION, "ds", 100u, "9P2000.L"), -EMSGSIZE);
	assert_int_equal(clunk(1), -EBADF); /* a new session has no fids */
}

static void walking(void **state)
{
	assert_int_equal(attach(1), -EEXIST);
	assert_int_equal(call(P9_TWALK, "ddwss", 1u, 2u, 2u, "sub", "inner"), 0);
	assert_int_equal(p9_get16(&in), 2);
	assert_int_equal(p9_get8(&in), 0x80);
	/* A part of the way: as many qids as names were found, and no fid. */
	assert_int_equal(call(P9_TWALK, "ddwss", 1u, 3u, 2u, "sub", "nothing"), 0);
	assert_int_equal(p9_get16(&in), 1);
	assert_int_equal(clunk(3), -EBADF);
	assert_int_equal(walk1(1, 3, "nothing"), -ENOENT);
	assert_int_equal(walk1(1, 2, "file"), -EEXIST);
	assert_int_equal(walk1(77, 3, "file"), -EBADF);
	assert_int_equal(call(P9_TWALK, "ddw", 1u, 3u, 0u), 0); /* a copy */
	assert_int_equal(call(P9_TWALK, "ddwss", 3u, 3u, 2u, "sub", "inner"), 0);
	assert_int_equal(lopen(3, O_RDONLY), 0);
	assert_int_equal(call(P9_TWALK, "ddws", 3u, 3u, 1u, ".."), -EBUSY); /* open */
	assert_int_equal(call(P9_TWALK, "ddw", 1u, 4u, 17u), -EINVAL);
	assert_int_equal(call(P9_TWALK, "ddwss", 2u, 4u, 1u, "file", ""), -ENOTDIR);
}

static void no_way_out(void **state)
{
	static const char *const names[] = {"..", "../secret", "sub/../../secret", "/etc/passwd", "sub/inner",
	                                    "",   "."};
	char many[4096] = "";

	/* ".." of the shared folder is the folder itself. */
	assert_int_equal(call(P9_TWALK, "ddwsss", 1u, 2u, 3u, "..", "..", "secret"), 0);
	assert_int_equal(p9_get16(&in), 2);
	assert_int_equal(walk1(1, 3, ".."), 0);
	assert_int_equal(walk1(3, 4, "file"), 0);
	assert_int_equal(walk1(3, 5, "secret"), -ENOENT);
	for (unsigned i = 1; i < 5; i++)
		assert_int_equal(walk1(1, 6, names[i]), -EINVAL);
	/* Links are things, not ways. */
	assert_int_equal(walk1(1, 6, "up"), 0);
	assert_int_equal(walk1(6, 7, "secret"), -ENOTDIR);
	assert_int_equal(call(P9_TWALK, "ddwss", 1u, 7u, 2u, "root", "etc"), 0);
	assert_int_equal(p9_get16(&in), 1);
	assert_int_equal(walk1(1, 8, "absolute"), 0);
	assert_int_equal(lopen(8, O_RDONLY), -ELOOP);
	assert_null(read_file("relative"));
	/* Nor for what makes or removes names. */
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(call(P9_TMKDIR, "dsdd", 1u, names[i], 0755u, 0u), -EINVAL);
		assert_int_equal(call(P9_TUNLINKAT, "dsd", 1u, names[i], 0u), -EINVAL);
		assert_int_equal(call(P9_TSYMLINK, "dssd", 1u, names[i], "x", 0u), -EINVAL);
		assert_int_equal(call(P9_TLINK, "dds", 1u, 4u, names[i]), -EINVAL);
		assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "file", 1u, names[i]), -EINVAL);
		assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, names[i], 1u, "file2"), -EINVAL);
		assert_int_equal(call(P9_TRENAME, "dds", 4u, 1u, names[i]), -EINVAL);
		assert_int_equal(call(P9_TMKNOD, "dsdddd", 1u, names[i], S_IFREG | 0600u, 0u, 0u, 0u),
		                 -EINVAL);
		assert_int_equal(call(P9_TLCREATE, "dsddd", 3u, names[i], O_RDWR, 0600u, 0u), -EINVAL);
	}
	/* Through a link that exists already. */
	assert_int_equal(walk1(1, 9, ".."), 0);
	assert_int_equal(call(P9_TLCREATE, "dsddd", 9u, "relative", O_WRONLY | O_TRUNC, 0600u, 0u), -ELOOP);
	memset(many, 'n', 256);
	assert_int_equal(walk1(1, 10, many), -ENAMETOOLONG);
}

static void secret_is_untouched(void **state)
{
	char path[128], text[64] = {0};
	struct stat status;
	FILE *file;

	no_way_out(state);
	/* Attributes of a link are the link's. */
	assert_int_equal(walk1(1, 50, "relative"), 0);
	call(P9_TSETATTR, "dddddqqqqq", 50u, 1u | 8u, 0u, 0u, 0u, UINT64_C(0), UINT64_C(0), UINT64_C(0),
	     UINT64_C(0), UINT64_C(0));
	snprintf(path, sizeof(path), "%s/secret", top);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_size, strlen(SECRET));
	assert_true(status.st_mode & 0400);
	file = fopen(path, "r");
	assert_int_equal(fread(text, 1, sizeof(text), file), strlen(SECRET));
	fclose(file);
	assert_string_equal(text, SECRET);
}

/* Between two messages the host, or another client, puts a link where a folder was. */
static void a_folder_turned_link(void **state)
{
	assert_int_equal(walk1(1, 2, "sub"), 0);
	assert_int_equal(rename(at("sub"), at("moved")), 0);
	assert_int_equal(symlink("..", at("sub")), 0);
	assert_int_equal(walk1(2, 3, "inner"), 0); /* the folder that fid 2 is */
	assert_int_equal(walk1(2, 4, "secret"), -ENOENT);
	assert_int_equal(call(P9_TWALK, "ddwss", 1u, 4u, 2u, "sub", "secret"), 0);
	assert_int_equal(p9_get16(&in), 1);
}

static void reading_and_writing(void **state)
{
	assert_string_equal(read_file("file"), "content");
	assert_int_equal(walk1(1, 2, "file"), 0);
	assert_int_equal(call(P9_TREAD, "dqd", 2u, UINT64_C(0), 10u), -EBADF);
	assert_int_equal(lopen(2, O_RDWR), 0);
	assert_int_equal(lopen(2, O_RDWR), -EBUSY);
	begin(P9_TWRITE);
	p9_put(&out, 2, 4);
	p9_put(&out, 3, 8);
	p9_put(&out, 5, 4);
	p9_put_bytes(&out, "WRITE", 5);
	assert_int_equal(send_message(), 0);
	assert_int_equal(p9_get32(&in), 5);
	assert_string_equal(read_file("file"), "conWRITE");
	/* More than the message has. */
	begin(P9_TWRITE);
	p9_put(&out, 2, 4);
	p9_put(&out, 0, 8);
	p9_put(&out, 6, 4);
	p9_put_bytes(&out, "WRITE", 5);
	assert_int_equal(send_message(), -EBADMSG);
	assert_int_equal(call(P9_TREAD, "dqd", 2u, UINT64_C(3), 2u), 0);
	assert_int_equal(p9_get32(&in), 2);
	assert_memory_equal(in.at, "WR", 2);
	assert_int_equal(call(P9_TREAD, "dqd", 2u, UINT64_C(3), ~0u), 0);
	assert_int_equal(p9_get32(&in), 5);
	assert_int_equal(call(P9_TREAD, "dqd", 2u, UINT64_C(100), 2u), 0);
	assert_int_equal(p9_get32(&in), 0);
	assert_int_equal(call(P9_TREAD, "dqd", 2u, UINT64_MAX, 2u), -EINVAL);
	assert_int_equal(call(P9_TFSYNC, "dd", 2u, 1u), 0);
	assert_int_equal(walk1(1, 3, "sub"), 0);
	assert_int_equal(lopen(3, O_RDWR), -EISDIR);
	assert_int_equal(lopen(3, O_RDONLY), 0);
	assert_int_equal(call(P9_TREAD, "dqd", 3u, UINT64_C(0), 2u), -EISDIR);
}

static void creating(void **state)
{
	struct stat status;

	umask(077); /* ours is not the guest's */
	assert_int_equal(walk1(1, 2, "."), 0);
	assert_int_equal(call(P9_TLCREATE, "dsddd", 2u, "new", O_RDWR | O_EXCL, 04664u, 0u), 0);
	assert_int_equal(stat(at("new"), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0664); /* without the set-user-ID bit */
	assert_int_equal(walk1(1, 3, "."), 0);
	assert_int_equal(call(P9_TLCREATE, "dsddd", 3u, "new", O_RDWR | O_EXCL, 0664u, 0u), -EEXIST);
	assert_int_equal(call(P9_TLCREATE, "dsddd", 3u, "file", O_WRONLY | O_TRUNC, 0664u, 0u), 0);
	assert_int_equal(stat(at("file"), &status), 0);
	assert_int_equal(status.st_size, 0);
	assert_int_equal(call(P9_TMKDIR, "dsdd", 1u, "dir", 0775u, 0u), 0);
	assert_int_equal(p9_get8(&in), 0x80);
	assert_int_equal(stat(at("dir"), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0775);
	assert_int_equal(call(P9_TSYMLINK, "dssd", 1u, "link", "a target", 0u), 0);
	assert_int_equal(p9_get8(&in), 2);
	assert_int_equal(walk1(1, 4, "link"), 0);
	assert_int_equal(call(P9_TREADLINK, "d", 4u), 0);
	assert_int_equal(p9_get16(&in), 8);
	assert_memory_equal(in.at, "a target", 8);
	assert_int_equal(call(P9_TREADLINK, "d", 1u), -EINVAL);
	assert_int_equal(call(P9_TMKNOD, "dsdddd", 1u, "pipe", S_IFIFO | 0600u, 0u, 0u, 0u), 0);
	assert_int_equal(walk1(1, 5, "pipe"), 0);
	assert_int_equal(lopen(5, O_RDONLY), -ENXIO); /* it would wait for ever */
	assert_int_equal(call(P9_TMKNOD, "dsdddd", 1u, "null", S_IFCHR | 0666u, 1u, 3u, 0u), -EPERM);
	assert_int_equal(call(P9_TMKNOD, "dsdddd", 1u, "disk", S_IFBLK | 0666u, 8u, 0u, 0u), -EPERM);
}

static void attributes(void **state)
{
	struct stat status;

	assert_int_equal(walk1(1, 2, "file"), 0);
	assert_int_equal(call(P9_TGETATTR, "dq", 2u, UINT64_C(0x7ff)), 0);
	assert_int_equal(p9_get64(&in), 0x7ff);
	p9_get8(&in);
	p9_get32(&in);
	assert_int_equal(stat(at("file"), &status), 0);
	assert_int_equal(p9_get64(&in), status.st_ino);
	assert_int_equal(p9_get32(&in), status.st_mode);
	assert_int_equal(p9_get32(&in), status.st_uid);
	assert_int_equal(p9_get32(&in), status.st_gid);
	assert_int_equal(p9_get64(&in), 1);
	p9_get64(&in);
	assert_int_equal(p9_get64(&in), 7);
	assert_int_equal(in.left, 12 * 8); /* block size, blocks, four times, generation, data version */
	assert_int_equal(call(P9_TSETATTR, "dddddqqqqq", 2u, 1u | 8u | 0x20u | 0x100u, 06640u, 0u, 0u,
	                      UINT64_C(3), UINT64_C(0), UINT64_C(0), UINT64_C(1580608922), UINT64_C(5)),
	                 0);
	assert_int_equal(stat(at("file"), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0640);
	assert_int_equal(status.st_size, 3);
	assert_int_equal(status.st_mtim.tv_sec, 1580608922);
	assert_int_equal(status.st_mtim.tv_nsec, 5);
	assert_int_equal(call(P9_TSTATFS, "d", 1u), 0);
	assert_int_equal(p9_get32(&in), 0x01021997);
	assert_int_equal(call(P9_TXATTRWALK, "dds", 2u, 3u, "user.x"), -EOPNOTSUPP);
}

static void removing_and_renaming(void **state)
{
	assert_int_equal(walk1(1, 2, "file"), 0);
	assert_int_equal(walk1(1, 3, "file"), 0);
	assert_int_equal(lopen(3, O_RDWR), 0);
	assert_int_equal(walk1(1, 4, "sub"), 0);
	assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "file", 4u, "renamed"), 0);
	assert_int_equal(call(P9_TGETATTR, "dq", 2u, UINT64_C(0x7ff)), 0);
	assert_int_equal(call(P9_TWALK, "ddws", 2u, 5u, 1u, ".."), -ENOTDIR);
	assert_int_equal(call(P9_TRENAME, "dds", 2u, 1u, "again"), 0);
	assert_string_equal(read_file("again"), "content");
	assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "again", 1u, "again"), 0);
	assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "none", 1u, "none"), -ENOENT);
	/* A folder that moves takes its children along. */
	assert_int_equal(call(P9_TWALK, "ddws", 4u, 6u, 1u, "inner"), 0);
	assert_int_equal(call(P9_TMKDIR, "dsdd", 1u, "deep", 0755u, 0u), 0);
	assert_int_equal(walk1(1, 7, "deep"), 0);
	assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "sub", 7u, "sub2"), 0);
	assert_int_equal(lopen(6, O_RDONLY), 0);
	assert_int_equal(walk1(4, 8, ".."), 0);
	assert_int_equal(call(P9_TUNLINKAT, "dsd", 8u, "sub2", 0x200u), -ENOTEMPTY);
	assert_int_equal(call(P9_TUNLINKAT, "dsd", 8u, "sub2", 0u), -EISDIR);
	assert_int_equal(call(P9_TUNLINKAT, "dsd", 4u, "inner", 1u), -EINVAL);
	assert_int_equal(call(P9_TUNLINKAT, "dsd", 4u, "inner", 0u), 0);
	/* What is open, or only known, stays usable. */
	assert_int_equal(call(P9_TREAD, "dqd", 6u, UINT64_C(0), 100u), 0);
	assert_int_equal(p9_get32(&in), 13);
	assert_int_equal(call(P9_TLINK, "dds", 1u, 2u, "second"), 0);
	assert_int_equal(call(P9_TUNLINKAT, "dsd", 1u, "again", 0u), 0);
	assert_int_equal(call(P9_TGETATTR, "dq", 2u, UINT64_C(0x7ff)), 0);
	assert_int_equal(lopen(2, O_RDONLY), 0);
	assert_string_equal(read_file("second"), "content");
	/* Tremove forgets its fid in any case. */
	assert_int_equal(walk1(1, 9, "second"), 0);
	assert_int_equal(call(P9_TREMOVE, "d", 9u), 0);
	assert_int_equal(clunk(9), -EBADF);
	assert_null(read_file("second"));
	assert_int_equal(call(P9_TREMOVE, "d", 1u), -EBUSY);
	assert_int_equal(clunk(1), -EBADF);
}

/* Every name once, in as many pieces as it takes, from where the last piece ended. */
static void reading_folders(void **state)
{
	bool seen[500] = {false};
	uint64_t offset = 0;
	unsigned names = 0, calls = 0;

	for (unsigned i = 0; i < 500; i++) {
		char name[32];

		snprintf(name, sizeof(name), "sub/name-%03u", i);
		write_file(at(name), "");
	}
	assert_int_equal(walk1(1, 2, "sub"), 0);
	assert_int_equal(call(P9_TREADDIR, "dqd", 2u, offset, 1000u), -EBADF);
	assert_int_equal(lopen(2, O_RDONLY), 0);
	assert_int_equal(call(P9_TREADDIR, "dqd", 2u, offset, 10u), -EINVAL);
	for (;;) {
		uint32_t size;

		assert_int_equal(call(P9_TREADDIR, "dqd", 2u, offset, 1000u), 0);
		size = p9_get32(&in);
		assert_int_equal(size, in.left);
		assert_true(size <= 1000);
		if (!size)
			break;
		calls++;
		while (in.left) {
			char name[256] = {0};
			size_t length;

			in.at += 13;
			in.left -= 13;
			offset = p9_get64(&in);
			p9_get8(&in);
			length = p9_get16(&in);
			memcpy(name, in.at, length);
			in.at += length;
			in.left -= length;
			names++;
			if (!strncmp(name, "name-", 5)) {
				assert_false(seen[atoi(name + 5)]);
				seen[atoi(name + 5)] = true;
			}
		}
	}
	assert_int_equal(names, 503); /* and ".", "..", "inner" */
	assert_true(calls > 15);
}

static void locks(void **state)
{
	for (unsigned fid = 2; fid < 4; fid++) {
		assert_int_equal(walk1(1, fid, "file"), 0);
		assert_int_equal(lopen(fid, O_RDWR), 0);
	}
	assert_int_equal(call(P9_TLOCK, "dbdqqds", 2u, 1u, 0u, UINT64_C(0), UINT64_C(0), 1u, "c"), 0);
	assert_int_equal(p9_get8(&in), 0);
	assert_int_equal(call(P9_TLOCK, "dbdqqds", 3u, 0u, 0u, UINT64_C(5), UINT64_C(1), 1u, "c"), 0);
	assert_int_equal(p9_get8(&in), 1); /* blocked */
	assert_int_equal(call(P9_TGETLOCK, "dbqqds", 3u, 1u, UINT64_C(5), UINT64_C(1), 1u, "c"), 0);
	assert_int_equal(p9_get8(&in), 1);
	assert_int_equal(call(P9_TLOCK, "dbdqqds", 2u, 2u, 0u, UINT64_C(0), UINT64_C(0), 1u, "c"), 0);
	assert_int_equal(call(P9_TGETLOCK, "dbqqds", 3u, 1u, UINT64_C(5), UINT64_C(1), 1u, "c"), 0);
	assert_int_equal(p9_get8(&in), 2);
	assert_int_equal(call(P9_TLOCK, "dbdqqds", 3u, 3u, 0u, UINT64_C(5), UINT64_C(1), 1u, "c"), -EINVAL);
}

static void a_read_only_share(void **state)
{
	p9_destroy(server);
	start(true, 256);
	assert_string_equal(read_file("file"), "content");
	assert_int_equal(walk1(1, 2, "file"), 0);
	assert_int_equal(lopen(2, O_RDWR), -EROFS);
	assert_int_equal(lopen(2, O_RDONLY | O_TRUNC), -EROFS);
	assert_int_equal(call(P9_TMKDIR, "dsdd", 1u, "d", 0755u, 0u), -EROFS);
	assert_int_equal(call(P9_TUNLINKAT, "dsd", 1u, "file", 0u), -EROFS);
	assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "file", 1u, "f"), -EROFS);
	assert_int_equal(call(P9_TSETATTR, "dddddqqqqq", 2u, 8u, 0u, 0u, 0u, UINT64_C(0), UINT64_C(0),
	                      UINT64_C(0), UINT64_C(0), UINT64_C(0)),
	                 -EROFS);
	assert_int_equal(call(P9_TREMOVE, "d", 2u), -EROFS);
	assert_string_equal(read_file("file"), "content");
}

/* More files are known than there may be descriptors: they are found again by their names. */
static void few_descriptors(void **state)
{
	char name[32];

	p9_destroy(server);
	start(false, 32);
	for (unsigned i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "d%u", i);
		assert_int_equal(call(P9_TMKDIR, "dsdd", 1u, name, 0755u, 0u), 0);
		assert_int_equal(walk1(1, 1000 + i, name), 0);
		assert_int_equal(call(P9_TMKDIR, "dsdd", 1000 + i, "below", 0755u, 0u), 0);
		assert_int_equal(walk1(1000 + i, 2000 + i, "below"), 0);
	}
	assert_int_equal(call(P9_TRENAMEAT, "dsds", 1u, "d3", 1u, "other"), 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(call(P9_TGETATTR, "dq", 2000 + i, UINT64_C(0x7ff)), 0);
	/* The host has put another one in its place. */
	for (unsigned i = 20; i < 60; i++)
		assert_int_equal(call(P9_TGETATTR, "dq", 2000 + i, UINT64_C(0x7ff)), 0);
	assert_int_equal(rename(at("d10"), at("d10-moved")), 0);
	assert_int_equal(mkdir(at("d10"), 0755), 0);
	assert_int_equal(call(P9_TGETATTR, "dq", 2010u, UINT64_C(0x7ff)), -ESTALE);
	assert_int_equal(clunk(2010), 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(walk1(1, 3000 + i, "file"), 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(lopen(3000 + i, O_RDONLY), i < 16 ? 0 : -EMFILE);
}

static void messages_that_are_none(void **state)
{
	struct iovec to = {message, 0}, from = {answer, sizeof(answer)};
	struct p9_request request = {&to, 1, 0, &from, 1, sizeof(answer)};

	assert_int_equal(p9_handle(server, &request), 0);
	begin(P9_TCLUNK);
	assert_int_equal(send_message(), -EBADF);
	assert_int_equal(call(255, "d", 1u), -EOPNOTSUPP);
	assert_int_equal(call(P9_TAUTH, "d", 1u), -EOPNOTSUPP);
	assert_int_equal(call(P9_TFLUSH, "w", 3u), 0);
	assert_int_equal(call(P9_TWALK, "ddww", 1u, 2u, 1u, 60000u), -EBADMSG);
	assert_int_equal(call(P9_TATTACH, "ddss", 5u, ~0u, "u", "/etc"), -ENOENT);
	begin(P9_TMKDIR);
	p9_put(&out, 1, 4);
	p9_put(&out, 3, 2);
	p9_put_bytes(&out, "a\0b", 3);
	p9_put(&out, 0, 8);
	assert_int_equal(send_message(), -EINVAL);
	/* An answer that has no room. */
	message[0] = 19;
	request.out_size = from.iov_len = 10;
	to.iov_len = request.in_size = 19;
	assert_int_equal(p9_handle(server, &request), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(versions),
	    TEST(walking),
	    TEST(no_way_out),
	    TEST(secret_is_untouched),
	    TEST(a_folder_turned_link),
	    TEST(reading_and_writing),
	    TEST(creating),
	    TEST(attributes),
	    TEST(removing_and_renaming),
	    TEST(reading_folders),
	    TEST(locks),
	    TEST(a_read_only_share),
	    TEST(few_descriptors),
	    TEST(messages_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
