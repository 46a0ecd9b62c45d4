#include "config/firmware_options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"
#include "util/properties.h"

/* The files that Debian's packages have, best first, and what belongs to them. */
struct firmware_file {
	const char *path;
	const char *variables; /* a template, or NULL */
};

static const struct firmware_file bios_files[] = {
	{"/usr/share/seabios/bios-256k.bin", NULL},
	{"/usr/share/seabios/bios.bin", NULL},
	{NULL, NULL},
};
/* Those without Secure Boot: it needs a system management mode, which this machine has not. */
static const struct firmware_file uefi_files[] = {
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{NULL, NULL},
};

static int once(const char *option, const char *value, const char **to)
{
	if (!*value)
		return error_set(EINVAL, "--%s: the value is empty", option);
	if (*to)
		return error_set(EINVAL, "--%s %s: given twice", option, value);
	*to = value;
	return 0;
}

int firmware_option(struct options *options, const char *value)
{
	return once("firmware", value, &options->machine.firmware);
}

int firmware_vars_option(struct options *options, const char *value)
{
	return once("firmware-vars", value, &options->machine.firmware_vars);
}

int debug_port_option(struct options *options, const char *value)
{
	if (strcmp(value, "stderr") && (strncmp(value, "file:", 5) || !value[5]))
		return error_set(EINVAL, "--debug-port %s: must be stderr or file:PATH", value);
	return once("debug-port", value, &options->machine.debug_port);
}

static int copy_string(const char *text, const char **copy)
{
	*copy = text ? strdup(text) : NULL;
	return text && !*copy ? error_set(ENOMEM, "out of memory") : 0;
}

/* NAME,file=PATH or NAME,string=TEXT */
static int fw_cfg_of(struct machine_config *machine, struct properties *list)
{
	const char *name = properties_first(list), *file = properties_get(list, "file"),
		   *text = properties_get(list, "string");
	struct machine_fw_cfg *item = &machine->fw_cfg[machine->fw_cfg_count];
	int result = properties_check_used(list, "NAME,file=PATH or NAME,string=TEXT");

	if (result)
		return result;
	if (!name || !*name || !file == !text || (file && !*file))
		return error_set(EINVAL, "--fw-cfg %s: must be NAME,file=PATH or NAME,string=TEXT",
		                 list->text);
	if (strlen(name) >= sizeof(item->name))
		return error_set(EINVAL, "--fw-cfg %s: the name must be shorter than %zu bytes", list->text,
				 sizeof(item->name));
	if (machine->fw_cfg_count == MACHINE_FW_CFG_ITEMS)
		return error_set(EINVAL, "--fw-cfg %s: at most %d items", list->text, MACHINE_FW_CFG_ITEMS);
	strcpy(item->name, name);
	machine->fw_cfg_count++;
	result = copy_string(file, &item->file);
	return result ? result : copy_string(text, &item->text);
}

int fw_cfg_option(struct options *options, const char *value)
{
	struct properties list;
	int result = properties_parse(&list, "--fw-cfg", value);

	if (!result)
		result = fw_cfg_of(&options->machine, &list);
	properties_free(&list);
	return result;
}

/* 8-4-4-4-12 hexadecimal digits. SMBIOS, "System — UUID": the first three fields are little-endian. */
int uuid_option(struct options *options, const char *value)
{
	static const uint8_t place[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
	const char *p = value;
	bool good = strlen(value) == 36;

	for (unsigned i = 0; i < 16 && good; i++) {
		char digits[3] = {0};

		if (i == 4 || i == 6 || i == 8 || i == 10)
			good = *p++ == '-';
		good = good && isxdigit((unsigned char)p[0]) && isxdigit((unsigned char)p[1]);
		if (good) {
			memcpy(digits, p, 2);
			options->machine.uuid[place[i]] = (uint8_t)strtoul(digits, NULL, 16);
		}
		p += 2;
	}
	if (!good)
		return error_set(EINVAL, "--uuid %s: must be like 2f9ad7a4-5f0c-4a52-9cf1-0a4c2c5be1c4",
		                 value);
	return 0;
}

static int find_files(struct machine_config *machine, const struct firmware_file *file, const char *package)
{
	const char *wanted = machine->firmware;

	for (; file->path; file++) {
		if (access(file->path, R_OK) || (file->variables && access(file->variables, R_OK)))
			continue;
		machine->firmware = file->path;
		machine->firmware_vars_template = file->variables;
		return 0;
	}
	return error_set(ENOENT, "--firmware %s: the firmware is not installed: apt install %s", wanted,
	                 package);
}

/* A system without a UUID of its own: libvirt and cloud-init want one, and the same in every run. */
static const uint8_t default_uuid[16] = {0x1d, 0x5e, 0x3a, 0x6e, 0x70, 0x0b, 0x57, 0x46,
					 0x8e, 0x1c, 'n',  'e',  's',  't',  'o',  'r'};

int firmware_options_finish(struct options *options)
{
	static const uint8_t none[16];
	struct machine_config *machine = &options->machine;
	bool bios;
	int result = 0;

	if (!memcmp(machine->uuid, none, sizeof(none)))
		memcpy(machine->uuid, default_uuid, sizeof(default_uuid));
	if (!machine->firmware && !machine->kernel && machine->disk_count)
		machine->firmware = "bios";
	bios = machine->firmware && !strcmp(machine->firmware, "bios");
	if (bios)
		result = find_files(machine, bios_files, "seabios");
	else if (machine->firmware && !strcmp(machine->firmware, "uefi"))
		result = find_files(machine, uefi_files, "ovmf");
	if (result)
		return result;
	if (machine->firmware_vars && (!machine->firmware || bios))
		return error_set(EINVAL, "--firmware-vars %s: needs --firmware uefi", machine->firmware_vars);
	if (machine->debug_port && !machine->firmware)
		return error_set(EINVAL, "--debug-port %s: needs --firmware", machine->debug_port);
	if (machine->kernel && bios)
		return error_set(EINVAL, "--kernel %s: a BIOS starts kernels from disks only; give --firmware uefi, or "
				 "none of both", machine->kernel);
	return 0;
}

void firmware_options_free(struct options *options)
{
	for (unsigned i = 0; i < options->machine.fw_cfg_count; i++) {
		free((char *)options->machine.fw_cfg[i].file);
		free((char *)options->machine.fw_cfg[i].text);
	}
	options->machine.fw_cfg_count = 0;
}
