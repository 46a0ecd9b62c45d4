/*
 * Formats by their first bytes: qcow2 ("Header", docs/interop/qcow2), VMDK ("Hosted Sparse Extents" and its text
 * descriptor), VHDX ("File Type Identifier"), VDI (the signature behind its text header).
 */
#include <string.h>

#include "block/driver.h"

struct magic {
	const char *format;
	unsigned offset, size;
	const char *bytes;
};

static const struct magic magics[] = {
	{"qcow2", 0, 4, "QFI\373"},
	{"vmdk", 0, 4, "KDMV"},
	{"vmdk", 0, 4, "COWD"},
	{"vmdk", 0, 21, "# Disk DescriptorFile"},
	{"vhdx", 0, 8, "vhdxfile"},
	{"vdi", 64, 4, "\177\020\332\276"},
};

static const char *const names[] = {"raw", "qcow2", "vmdk", "vhdx", "vdi"};

const char *probe_format(const uint8_t head[PROBE_SIZE])
{
	for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
		if (!memcmp(head + magics[i].offset, magics[i].bytes, magics[i].size))
			return magics[i].format;
	return NULL;
}

const char *format_name(const char *word)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i], word))
			return names[i];
	return NULL;
}
