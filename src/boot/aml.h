/*
 * A writer for the little ACPI Machine Language that the DSDT needs (ACPI Specification, "ACPI Machine
 *Language (AML) Specification"). Terms append in source order; what has a body is begun and ended:
 *
 *	aml_device(&aml, "COM1");
 *	aml_name(&aml, "_UID"), aml_integer(&aml, 1);
 *	aml_end(&aml);
 */
#ifndef NESTOR_BOOT_AML_H
#define NESTOR_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH 8

struct aml {
	uint8_t *data; /* owned; free() */
	size_t size, room;
	bool failed; /* no memory, or begun and ended unevenly: the contents are void */
	unsigned depth;
	size_t open[AML_DEPTH]; /* where the body of each open term starts */
};

/* Terms with a body up to the aml_end that belongs to them. path: "\\_SB.PCI0", segments of at most 4
 * letters. */
void aml_scope(struct aml *aml, const char *path);
void aml_device(struct aml *aml, const char *path);
void aml_package(struct aml *aml, uint8_t count);
void aml_end(struct aml *aml);

/* Name (path, …): the object follows. */
void aml_name(struct aml *aml, const char *path);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* EISAID ("PNP0501"). */
void aml_eisa_id(struct aml *aml, const char *id);

/* A resource template; its descriptors go between begin and end. */
void aml_resources(struct aml *aml);
void aml_resources_end(struct aml *aml);
void aml_io(struct aml *aml, uint16_t port, uint8_t count);
void aml_irq(struct aml *aml, uint8_t irq); /* edge, active high, exclusive */
void aml_memory32(struct aml *aml, uint32_t gpa, uint32_t size);
void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last);
void aml_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_memory_window64(struct aml *aml, uint64_t first, uint64_t last);

#endif
