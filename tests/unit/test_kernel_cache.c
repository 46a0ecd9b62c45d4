/* Unpacked kernels kept in a folder: found again, refused where anything is not as it was kept, and bounded.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/kernel_cache.h"

#define PAYLOAD_SIZE 10001u
#define IMAGE_SIZE   100003u

static char base[] = "/tmp/nestor-test-cache-XXXXXX";
static char folder[64];
static uint8_t payload_data[PAYLOAD_SIZE], image_data[IMAGE_SIZE];
static struct boot_file payload = {.name = "kernel", .data = payload_data, .size = PAYLOAD_SIZE};
static struct boot_file image = {.name = "kernel", .data = image_data, .size = IMAGE_SIZE};

/* Kernel number `number`: bytes, zeros in the middle and at the end. */
static void make(unsigned number)
{
	for (unsigned i = 0; i < PAYLOAD_SIZE; i++)
		payload_data[i] = (uint8_t)(i * 7 + number);
	memset(image_data, 0, IMAGE_SIZE);
	for (unsigned i = 0; i < 20000; i++)
		image_data[i] = image_data[i + 60000] = (uint8_t)(i * 13 + number);
}

static bool is_found(void)
{
	struct boot_file out;

	if (!kernel_cache_find(&out, folder, &payload, IMAGE_SIZE)) {
		assert_null(out.data);
		return false;
	}
	assert_int_equal(out.size, IMAGE_SIZE);
	assert_memory_equal(out.data, image_data, IMAGE_SIZE);
	boot_file_free(&out);
	return true;
}

static unsigned count_files(void)
{
	DIR *list = opendir(folder);
	const struct dirent *entry;
	unsigned count = 0;

	assert_non_null(list);
	while ((entry = readdir(list)))
		count += entry->d_name[0] != '.' || entry->d_name[1] == 'n';
	closedir(list);
	return count;
}

/* The path of the only file. */
static const char *only_file(void)
{
	static char path[512];
	DIR *list = opendir(folder);
	const struct dirent *entry;

	assert_int_equal(count_files(), 1);
	while ((entry = readdir(list)))
		if (entry->d_name[0] != '.')
			snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
	closedir(list);
	return path;
}

static int empty_folder(void **unused)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s/a", base);
	return system(command);
}

static int make_base(void **unused)
{
	if (!mkdtemp(base))
		return -1;
	snprintf(folder, sizeof(folder), "%s/a/cache", base);
	return 0;
}

static int remove_base(void **unused)
{
	return empty_folder(unused) || rmdir(base);
}

static void finds_what_was_kept(void **unused)
{
	make(1);
	assert_false(is_found());
	kernel_cache_keep(folder, &payload, &image);
	assert_true(is_found());
	assert_true(is_found());
	make(2);
	assert_false(is_found());
	kernel_cache_keep(folder, &payload, &image);
	assert_true(is_found());
	make(1);
	assert_true(is_found());
	/* An image of another size was asked for. */
	image.size--;
	assert_false(kernel_cache_find(&(struct boot_file){0}, folder, &payload, IMAGE_SIZE - 1));
	image.size++;
}

static void refuses_what_has_changed(void **unused)
{
	/* Header, its reserved bytes' end, payload, image; the bytes between are nobody's. */
	static const unsigned places[] = {0,    5,     24,    32,    40,    44,    4096,
	                                  9000, 14096, 16384, 20000, 76400, 80000, 116386};
	int fd;

	make(3);
	kernel_cache_keep(folder, &payload, &image);
	fd = open(only_file(), O_RDWR);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint8_t was, other;

		assert_int_equal(pread(fd, &was, 1, places[i]), 1);
		other = was ^ 0x10;
		assert_int_equal(pwrite(fd, &other, 1, places[i]), 1);
		assert_false(is_found());
		assert_int_equal(pwrite(fd, &was, 1, places[i]), 1);
		assert_true(is_found());
	}
	assert_int_equal(ftruncate(fd, 80000), 0);
	assert_false(is_found());
	assert_int_equal(ftruncate(fd, 3), 0);
	assert_false(is_found());
	close(fd);
	/* Kept anew it is whole. */
	kernel_cache_keep(folder, &payload, &image);
	assert_true(is_found());
}

static void takes_only_own_files(void **unused)
{
	char other[600];
	const char *path;

	make(4);
	kernel_cache_keep(folder, &payload, &image);
	path = only_file();
	assert_int_equal(chmod(path, 0666), 0);
	assert_false(is_found());
	assert_int_equal(chmod(path, 0600), 0);
	assert_true(is_found());
	snprintf(other, sizeof(other), "%s-other", path);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink(other, path), 0);
	assert_false(is_found());
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_false(is_found());
}

static void keeps_the_last_used(void **unused)
{
	char left[128];
	struct timespec old[2] = {{1000000, 0}, {1000000, 0}};

	for (unsigned number = 10; number < 10 + KERNEL_CACHE_FILES; number++) {
		make(number);
		kernel_cache_keep(folder, &payload, &image);
		usleep(20000); /* file times are as coarse as the kernel's tick */
	}
	make(10);
	assert_true(is_found()); /* so 11 is the oldest now */
	snprintf(left, sizeof(left), "%s/.new-abcdef", folder);
	close(open(left, O_CREAT | O_WRONLY, 0600));
	utimensat(AT_FDCWD, left, old, 0);
	usleep(20000);
	make(20);
	kernel_cache_keep(folder, &payload, &image);
	assert_int_equal(count_files(), KERNEL_CACHE_FILES);
	assert_true(is_found());
	make(10);
	assert_true(is_found());
	make(11);
	assert_false(is_found());
}

static void does_without_a_folder(void **unused)
{
	make(5);
	snprintf(folder, sizeof(folder), "%s", "/proc/self/nowhere/cache");
	kernel_cache_keep(folder, &payload, &image);
	assert_false(is_found());
	snprintf(folder, sizeof(folder), "%s/a/cache", base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(finds_what_was_kept, empty_folder),
	    cmocka_unit_test_teardown(refuses_what_has_changed, empty_folder),
	    cmocka_unit_test_teardown(takes_only_own_files, empty_folder),
	    cmocka_unit_test_teardown(keeps_the_last_used, empty_folder),
	    cmocka_unit_test_teardown(does_without_a_folder, empty_folder),
	};

	return cmocka_run_group_tests(tests, make_base, remove_base);
}
