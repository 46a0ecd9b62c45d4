/* The xz decoder for kernels: what liblzma packs comes out again; what is broken is refused or comes out
 * right. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "boot/xz.h"

#ifdef NESTOR_HAVE_LZMA
#include <lzma.h>

#define PLAIN_MAX  (1u << 20)
#define PACKED_MAX (PLAIN_MAX + 65536)

static uint8_t plain[PLAIN_MAX], packed[PACKED_MAX];
static uint64_t seed = 1;

static uint32_t random32(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33);
}

/* Text-like, code-like (branches with near targets), runs, repeats at all distances and noise, in turns. */
static void make_plain(size_t size)
{
	for (size_t at = 0; at < size;) {
		size_t count = 1 + random32() % 3000, kind = random32() % 6;
		size_t back = 1 + random32() % (random32() % 2 ? 20 : 100000);

		if (count > size - at)
			count = size - at;
		for (size_t i = 0; i < count; i++, at++) {
			uint32_t value = random32();

			switch (kind) {
			case 0:
				plain[at] = (uint8_t)value;
				break;
			case 1:
				plain[at] = (uint8_t)("etaoin shrdlu"[value % 13]);
				break;
			case 2: /* opcodes and the bytes of signs, close together */
				plain[at] =
				    (uint8_t[]){0xe8, 0xe9, 0, 0xff, 0x0f, (uint8_t)(value >> 8)}[value % 6];
				break;
			case 3:
				plain[at] = at % 16 == 0   ? 0xe8
				            : at % 16 == 4 ? 0xff * (value & 1)
				                           : (uint8_t)at;
				break;
			default:
				plain[at] = back <= at ? plain[at - back] : 0;
				break;
			}
		}
	}
}

static size_t pack(size_t size, bool filtered, lzma_check check, const lzma_options_lzma *options)
{
	lzma_filter filter[] = {
	    {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, (void *)options}, {LZMA_VLI_UNKNOWN, NULL}};
	size_t packed_size = 0;

	assert_int_equal(lzma_stream_buffer_encode(filtered ? filter : filter + 1, check, NULL, plain, size,
	                                           packed, &packed_size, PACKED_MAX),
	                 LZMA_OK);
	return packed_size;
}

/* In a buffer of exactly the room that was promised, for the sanitizers. */
static bool comes_out(size_t size, const uint8_t *data, size_t data_size)
{
	uint8_t *out = malloc(size + XZ_SLACK), *in = malloc(data_size ? data_size : 1);
	bool good;

	memcpy(in, data, data_size);
	good = xz_unpack(out, size, in, data_size);
	if (good)
		assert_memory_equal(out, plain, size);
	free(in);
	free(out);
	return good;
}

static void unpacks_what_liblzma_packs(void **unused)
{
	static const size_t sizes[] = {1, 4, 5, 6, 17, 300, 5000, 70000, 300000, PLAIN_MAX};

	for (unsigned turn = 0; turn < 60; turn++) {
		size_t size = sizes[turn % (sizeof(sizes) / sizeof(sizes[0]))], packed_size;
		lzma_options_lzma options;

		lzma_lzma_preset(&options, turn % 7);
		options.lc = turn % 5;
		options.lp = turn % 3 <= 4 - options.lc ? turn % 3 : 0;
		options.pb = turn % 5;
		make_plain(size);
		packed_size =
		    pack(size, turn % 2, turn % 4 < 3 ? LZMA_CHECK_CRC32 : LZMA_CHECK_NONE, &options);
		assert_true(comes_out(size, packed, packed_size));
		/* More than the stream is no harm, a wrong size is. */
		assert_true(comes_out(size, packed, packed_size + 100));
		assert_false(comes_out(size - 1, packed, packed_size));
		assert_false(comes_out(size + 1, packed, packed_size));
	}
}

/* With a CRC32, whatever changed in the data is found; liblzma then says what it is. */
static void refuses_what_is_broken(void **unused)
{
	for (unsigned turn = 0; turn < 20; turn++) {
		size_t size = 2000 + random32() % 60000, packed_size;
		lzma_options_lzma options;

		lzma_lzma_preset(&options, 6);
		make_plain(size);
		packed_size = pack(size, turn % 2, LZMA_CHECK_CRC32, &options);
		for (unsigned change = 0; change < 60; change++) {
			size_t at = change < 30 ? random32() % packed_size : change - 30;
			uint8_t was = packed[at];

			packed[at] ^= 1u << random32() % 8;
			assert_false(comes_out(size, packed, packed_size));
			packed[at] = was;
		}
		for (unsigned cut = 0; cut < 40; cut++)
			assert_false(comes_out(size, packed,
			                       cut < 20 ? packed_size - 1 - cut : random32() % packed_size));
		assert_true(comes_out(size, packed, packed_size));
	}
}

static void leaves_other_kinds_to_liblzma(void **unused)
{
	lzma_options_lzma options;

	lzma_lzma_preset(&options, 6);
	make_plain(1000);
	assert_false(comes_out(1000, packed, pack(1000, true, LZMA_CHECK_CRC64, &options)));
	assert_false(comes_out(1000, packed, pack(1000, true, LZMA_CHECK_SHA256, &options)));
	assert_false(comes_out(1000, packed, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(unpacks_what_liblzma_packs),
	    cmocka_unit_test(refuses_what_is_broken),
	    cmocka_unit_test(leaves_other_kinds_to_liblzma),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
	return 77; /* nothing to compare with */
}
#endif
