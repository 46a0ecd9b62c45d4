/*
 * Port CF9h, the reset control register of Intel chipsets (I/O Controller Hub data sheets, "RST_CNT"). The
 * port lies inside the PCI host's address register, which passes on what is meant for us.
 */
#include "device/chipset/cf9.h"

#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define RESET_SYSTEM 0x02
#define RESET_CPU    0x04
#define RESET_FULL   0x08

struct cf9 {
	struct machine *machine;
	uint8_t value;
};

uint8_t cf9_read(const struct cf9 *cf9)
{
	return cf9->value;
}

/* The reset happens where RST_CPU goes from 0 to 1. */
void cf9_write(struct cf9 *cf9, uint8_t value)
{
	bool rising = value & RESET_CPU && !(cf9->value & RESET_CPU);

	cf9->value = value & (RESET_SYSTEM | RESET_CPU | RESET_FULL);
	if (rising)
		machine_reset_request(cf9->machine, "port CF9h");
}

static void cf9_reset(void *state)
{
	struct cf9 *cf9 = state;

	cf9->value = 0;
}

int cf9_create(struct machine *machine)
{
	struct cf9 *cf9 = calloc(1, sizeof(*cf9));
	int error;

	if (!cf9)
		return error_set(ENOMEM, "out of memory");
	cf9->machine = machine;
	error = machine_add_device(machine, "cf9", cf9, cf9_reset, free);
	if (error)
		free(cf9);
	else
		machine->cf9 = cf9;
	return error;
}
