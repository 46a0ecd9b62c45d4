/* What --host-root gives its guest: an archive that cpio reads, and modules found with what they depend on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/cpio.h"
#include "boot/kernel_modules.h"
#include "util/error.h"

static char folder[] = "/tmp/nestor-test-modules-XXXXXX";

static const char *at(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static void write_file(const char *name, const void *data, size_t size)
{
	FILE *file = fopen(at(name), "w");

	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, size, file), size);
	fclose(file);
}

/* Of a module only its .modinfo counts here. */
static void write_module(const char *name, const char *depends)
{
	char text[256] = "\x7f"
	                 "ELF";
	int length = snprintf(text + 16, sizeof(text) - 16, "license=GPL%cdepends=%s%cname=x", 0, depends, 0);

	write_file(name, text, 16 + (size_t)length + 1);
}

static int setup(void **state)
{
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	assert_non_null(mkdtemp(folder));
	assert_int_equal(mkdir(at("kernel"), 0755), 0);
	assert_int_equal(mkdir(at("kernel/drivers"), 0755), 0);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void modules_in_the_order_of_loading(void **state)
{
	static const char *const wanted[] = {"top", "other", "built_in", NULL};
	struct kernel_modules modules = {.count = 0};

	write_module("kernel/top.ko", "middle-one,base");
	write_module("kernel/drivers/middle-one.ko", "base");
	write_module("kernel/drivers/base.ko", "");
	write_module("kernel/other.ko", "base");
	assert_int_equal(kernel_modules_find(&modules, folder, wanted), 0);
	assert_int_equal(modules.count, 4);
	assert_string_equal(modules.module[0].name, "base");
	assert_string_equal(modules.module[1].name, "middle_one");
	assert_string_equal(modules.module[2].name, "top");
	assert_string_equal(modules.module[3].name, "other");
	kernel_modules_free(&modules);
}

static void a_compressed_module(void **state)
{
	static const char *const wanted[] = {"packed", NULL};
	struct kernel_modules modules = {.count = 0};
	char command[512];

	write_module("kernel/packed.ko", "base");
	write_module("kernel/base.ko", "");
	snprintf(command, sizeof(command), "gzip %s", at("kernel/packed.ko"));
	if (system(command))
		skip();
	assert_int_equal(kernel_modules_find(&modules, folder, wanted), 0);
	assert_int_equal(modules.count, 2);
	assert_memory_equal(modules.module[1].file.data,
	                    "\x7f"
	                    "ELF",
	                    4);
	kernel_modules_free(&modules);
}

static void a_circle_of_modules(void **state)
{
	static const char *const wanted[] = {"a", NULL};
	struct kernel_modules modules = {.count = 0};

	write_module("kernel/a.ko", "b");
	write_module("kernel/b.ko", "a");
	assert_true(kernel_modules_find(&modules, folder, wanted) < 0);
	assert_non_null(strstr(error_text(), "circle"));
	kernel_modules_free(&modules);
}

static void the_version_of_a_kernel(void **state)
{
	uint8_t image[2048] = {0};
	char version[64];

	memcpy(image + 0x202, "HdrS", 4);
	image[0x20e] = 0x00;
	image[0x20f] = 0x02;
	strcpy((char *)image + 0x400, "6.1.0-13-amd64 (builder@host) #1 SMP");
	write_file("bzImage", image, sizeof(image));
	assert_int_equal(kernel_version(at("bzImage"), version, sizeof(version)), 0);
	assert_string_equal(version, "6.1.0-13-amd64");
	strcpy((char *)image + 0x400, "../../etc (x)");
	write_file("bzImage", image, sizeof(image));
	assert_int_equal(kernel_version(at("bzImage"), version, sizeof(version)), 0);
	assert_string_equal(version, "");
	image[0x20f] = 0xff; /* behind the end */
	write_file("bzImage", image, sizeof(image));
	assert_int_equal(kernel_version(at("bzImage"), version, sizeof(version)), 0);
	assert_string_equal(version, "");
	write_file("bzImage", "short", 5);
	assert_int_equal(kernel_version(at("bzImage"), version, sizeof(version)), 0);
	assert_string_equal(version, "");
	assert_true(kernel_version(at("none"), version, sizeof(version)) < 0);
}

static void an_archive(void **state)
{
	struct cpio cpio = {0};
	char command[512], line[128];
	FILE *list;

	if (system("command -v cpio >/dev/null"))
		skip();
	cpio_folder(&cpio, "some");
	cpio_file(&cpio, "some/file", "contents", 8, true);
	cpio_file(&cpio, "some/odd", "x", 1, false);
	cpio_file(&cpio, "empty", NULL, 0, false);
	cpio_device(&cpio, "some/console", 5, 1);
	assert_int_equal(cpio_end(&cpio), 0);
	assert_int_equal(cpio.size % 4, 0);
	write_file("archive", cpio.data, cpio.size);
	cpio_free(&cpio);
	snprintf(command, sizeof(command), "cpio -itv --numeric-uid-gid --quiet <%s | cut -c1-10",
	         at("archive"));
	list = popen(command, "r");
	for (const char *const *mode = (const char *const[]){"drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--",
	                                                     "-rw-r--r--", "crw-------", NULL};
	     *mode; mode++) {
		assert_non_null(fgets(line, sizeof(line), list));
		line[10] = 0;
		assert_string_equal(line, *mode);
	}
	assert_null(fgets(line, sizeof(line), list));
	assert_int_equal(pclose(list), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(modules_in_the_order_of_loading), TEST(a_compressed_module), TEST(a_circle_of_modules),
	    TEST(the_version_of_a_kernel),         TEST(an_archive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
