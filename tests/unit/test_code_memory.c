/*
 * Huge pages under translated code (bt/create.c): what is written already stays as it is, wherever a block stands. No more
 * of struct bt is filled than that takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/bt/bt.h"

#define KIND (4 * HUGE_PAGE) /* of memory for main lines, and aside */
#define WRITTEN 0xcc

static uint8_t *start; /* of code memory for both */
static struct bt bt;

static int set_up(void **state)
{
	uint8_t *room = mmap(NULL, 2 * KIND + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (room == MAP_FAILED)
		return -1;
	start = (uint8_t *)(((uintptr_t)room + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	return 0;
}

/* Main lines are written up to `used` bytes from the start, the first huge page is there, and afterwards `pages` are. */
static void check(size_t used, size_t pages)
{
	bt = (struct bt){ .code_rw = start, .code_size = 2 * KIND, .cold_start = start + KIND, .huge_end = start + HUGE_PAGE,
			  .cold_huge_end = start + 2 * KIND };
	bt.e.p = start + used;
	bt.cold.p = start + KIND;
	memset(start, WRITTEN, used);
	memset(start + used, 0, KIND - used);
	bt_make_code_huge(&bt);
	for (size_t i = 0; i < used; i++)
		if (start[i] != WRITTEN)
			fail_msg("byte %zu of %zu was overwritten", i, used);
	assert_ptr_equal(bt.huge_end, start + pages * HUGE_PAGE);
}

static void test_block_before_the_next_page(void **state)
{
	check(HUGE_PAGE - 100, 2);
}

/* The first block behind a change of parts is there before the pages under it are made huge. */
static void test_block_over_the_start_of_a_page(void **state)
{
	check(HUGE_PAGE + 300, 2);
}

static void test_part_begins_where_a_page_does(void **state)
{
	check(2 * HUGE_PAGE + 1, 3);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_block_before_the_next_page),
		cmocka_unit_test(test_block_over_the_start_of_a_page),
		cmocka_unit_test(test_part_begins_where_a_page_does),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
