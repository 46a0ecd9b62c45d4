/*
 * Random 9P messages, most of them well-formed and on few fids and names so that they get far, some damaged,
 * in buffers cut anywhere. Build with the sanitizers; the program itself checks that what lies beside the
 * shared folder stays as it is and is never answered, and that a good client is still served. Arguments:
 * messages (default 200000), seed (default 1). The same arguments give the same messages.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "share/p9.h"
#include "share/p9_wire.h"
#include "random_source.h"
#include "util/error.h"

#define SECRET "never to be seen by the client"

static uint64_t served;
static struct p9_server *server;
static uint8_t message[20000], answer[70000];
static char top[] = "/tmp/nestor-fuzz-9p-XXXXXX";

static uint64_t some_number(void)
{
	switch (below(5)) {
	case 0:
		return below(16);
	case 1:
		return below(5000);
	case 2:
		return UINT64_C(1) << below(64);
	case 3:
		return UINT64_MAX - below(3);
	default:
		return any();
	}
}

static const char *some_name(void)
{
	static const char *const names[] = {"a",  "b", "c", "d",         "link", "up", "out",
	                                    "..", ".", "",  "../secret", "/",    "a/b"};

	return names[below(below(3) ? 7 : sizeof(names) / sizeof(names[0]))];
}

/* Each message: f: a fid, s: a name, m: a mode, o: open flags; b, w, d, q: a number; W: names to walk; D:
 * data. */
static const struct {
	uint8_t type;
	const char *format;
} messages[] = {
    {P9_TVERSION, "ds"},     {P9_TATTACH, "ffssd"},  {P9_TATTACH, "fd00d"},     {P9_TATTACH, "fd00d"},
    {P9_TATTACH, "fd00d"},   {P9_TWALK, "ffW"},      {P9_TWALK, "ffW"},         {P9_TWALK, "ffW"},
    {P9_TWALK, "ffW"},       {P9_TLOPEN, "fo"},      {P9_TLOPEN, "fo"},         {P9_TLCREATE, "fsomd"},
    {P9_TREAD, "fqd"},       {P9_TREAD, "f8k"},      {P9_TWRITE, "fkD"},        {P9_TWRITE, "f8D"},
    {P9_TREADDIR, "f8k"},    {P9_TREADDIR, "fqd"},   {P9_TFSYNC, "fd"},         {P9_TLOCK, "fbdqqds"},
    {P9_TGETLOCK, "fbqqds"}, {P9_TSYMLINK, "fssd"},  {P9_TMKNOD, "fsmddd"},     {P9_TRENAME, "ffs"},
    {P9_TREADLINK, "f"},     {P9_TLINK, "ffs"},      {P9_TMKDIR, "fsmd"},       {P9_TRENAMEAT, "fsfs"},
    {P9_TUNLINKAT, "fsu"},   {P9_TREMOVE, "f"},      {P9_TGETATTR, "fq"},       {P9_TSETATTR, "fammkqqqq"},
    {P9_TSTATFS, "f"},       {P9_TXATTRWALK, "ffs"}, {P9_TXATTRCREATE, "fsqd"}, {P9_TCLUNK, "f"},
    {P9_TFLUSH, "w"},        {P9_TAUTH, "fssd"},
};

static void put_field(struct p9_writer *out, char kind)
{
	static const uint32_t types[] = {0, S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR};
	unsigned count;

	switch (kind) {
	case 'f':
		p9_put(out, below(32) ? below(12) : some_number(), 4);
		break;
	case 's':
		p9_put_string(out, some_name());
		break;
	case '0':
		p9_put_string(out, "");
		break;
	case 'm':
		p9_put(out, types[below(7)] | below(010000), 4);
		break;
	case 'o':
		p9_put(out, below(4) | (below(4) ? 0 : any() & 07777777), 4);
		break;
	case 'u':
		p9_put(out, below(2) * 0x200, 4);
		break;
	case 'a':
		p9_put(out, below(0x200), 4);
		break;
	case 'k':
		p9_put(out, below(10000), 8);
		break;
	case 'W':
		count = (unsigned)below(below(8) ? 4 : 20);
		p9_put(out, count, 2);
		for (unsigned i = 0; i < count; i++)
			p9_put_string(out, some_name());
		break;
	case 'D':
		count = (unsigned)below(below(4) ? 100 : 15000);
		p9_put(out, below(32) ? count : some_number(), 4);
		for (unsigned i = 0; i < count; i++)
			p9_put(out, i, 1);
		break;
	default:
		p9_put(out, some_number(), kind == 'b' ? 1 : kind == 'w' ? 2 : kind == 'd' ? 4 : 8);
		break;
	}
}

static size_t make_message(void)
{
	unsigned index = (unsigned)below(sizeof(messages) / sizeof(messages[0]));
	struct p9_writer out = {message, 4, sizeof(message), false}, size = {message, 0, 4, false};

	/* A new session ends all that was reached: seldom. */
	if (messages[index].type == P9_TVERSION && below(50))
		index = 3;
	p9_put(&out, messages[index].type, 1);
	p9_put(&out, any(), 2);
	for (const char *p = messages[index].format; *p; p++)
		put_field(&out, *p);
	p9_put(&size, below(64) ? out.size : some_number(), 4);
	if (below(8) == 0)
		for (unsigned i = 0; i < 1 + below(4); i++)
			message[below(out.size)] = (uint8_t)any();
	return below(32) ? out.size : below(out.size + 1);
}

/* A buffer as pieces of any sizes. */
static unsigned cut(struct iovec *iov, uint8_t *buffer, size_t size)
{
	unsigned count = 0;

	while (size && count < 15) {
		size_t piece = below(3) ? size : 1 + below(size);

		iov[count++] = (struct iovec){buffer, piece};
		buffer += piece;
		size -= piece;
	}
	if (size)
		iov[count++] = (struct iovec){buffer, size};
	return count;
}

static void step(void)
{
	struct iovec in[16], out[16];
	struct p9_request request = {.in = in, .out = out};
	size_t size;

	request.in_size = make_message();
	request.in_count = cut(in, message, request.in_size);
	request.out_size = below(16) ? sizeof(answer) : below(200);
	request.out_count = cut(out, answer, request.out_size);
	size = p9_handle(server, &request);
	served += size > 4 && answer[4] != 7;
	if (size > request.out_size || (size && memmem(answer, size, SECRET, strlen(SECRET)))) {
		fprintf(stderr, "an answer of %zu bytes that must not be\n", size);
		abort();
	}
}

static void check_outside(void)
{
	char path[128], text[128] = {0};
	struct stat status;
	FILE *file;

	snprintf(path, sizeof(path), "%s/secret", top);
	file = fopen(path, "r");
	if (!file || fread(text, 1, sizeof(text) - 1, file) != strlen(SECRET) || strcmp(text, SECRET) ||
	    fstat(fileno(file), &status) || (status.st_mode & 07777) != 0600 || status.st_nlink != 1) {
		fprintf(stderr, "the file outside was changed\n");
		abort();
	}
	fclose(file);
}

static void check_usable(void)
{
	static const uint8_t hello[] = "\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\0"
	                               "9P2000.L";
	struct iovec in = {(void *)hello, 21}, out = {answer, sizeof(answer)};
	struct p9_request request = {&in, 1, 21, &out, 1, sizeof(answer)};

	if (p9_handle(server, &request) != 21 || answer[4] != 101) {
		fprintf(stderr, "a good client is not served any more\n");
		abort();
	}
}

int main(int argc, char **argv)
{
	uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
	char path[128], command[320];
	struct p9_config config = {.directory = path, .descriptors = 64};

	seed_from(argc, argv, 2);
	if (!mkdtemp(top))
		abort();
	snprintf(command, sizeof(command),
	         "umask 077; cd %s && printf '%s' >secret && mkdir shared && cd shared && "
	         "ln -s ../secret link && ln -s .. up && ln -s %s out",
	         top, SECRET, top);
	if (system(command))
		abort();
	snprintf(path, sizeof(path), "%s/shared", top);
	if (p9_create(&server, &config)) {
		fprintf(stderr, "%s\n", error_text());
		abort();
	}
	for (uint64_t i = 0; i < rounds; i++) {
		step();
		if (i % 10000 == 9999)
			check_usable();
	}
	check_usable();
	check_outside();
	p9_destroy(server);
	snprintf(command, sizeof(command), "chmod -R u+rwx %s; rm -rf %s", top, top);
	printf("%llu messages, %llu without an error\n", (unsigned long long)rounds,
	       (unsigned long long)served);
	return system(command) != 0;
}
