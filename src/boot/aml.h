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

/* Opcodes of methods' terms, for aml_op. Operands follow in source order; what stores its result ends with a target. */
enum aml_opcode {
	AML_NO_TARGET = 0x00,
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_STORE = 0x70,
	AML_SUBTRACT = 0x74,
	AML_SHIFT_LEFT = 0x79,
	AML_AND = 0x7b,
	AML_OR = 0x7d,
	AML_FIND_SET_RIGHT_BIT = 0x82,
	AML_CREATE_DWORD_FIELD = 0x8a, /* buffer, byte, name */
	AML_CREATE_WORD_FIELD = 0x8b,
	AML_NOT = 0x92, /* logical, as AML_EQUAL */
	AML_EQUAL = 0x93,
	AML_RETURN = 0xa4,
};

#define AML_SERIALIZED        8 /* of a method's flags; the low bits are the number of arguments */
#define AML_REGION_PCI_CONFIG 2

/* Terms with a body up to the aml_end that belongs to them. path: "\\_SB.PCI0", segments of at most 4
 * letters. */
void aml_scope(struct aml *aml, const char *path);
void aml_device(struct aml *aml, const char *path);
void aml_package(struct aml *aml, uint8_t count);
void aml_method(struct aml *aml, const char *path, uint8_t flags);
void aml_if(struct aml *aml);                         /* the predicate follows */
void aml_field(struct aml *aml, const char *region); /* of bytes; its units follow */
void aml_end(struct aml *aml);

/* Name (path, …): the object follows. */
void aml_name(struct aml *aml, const char *path);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
void aml_buffer(struct aml *aml, const uint8_t *data, uint8_t size);
void aml_path(struct aml *aml, const char *path);
void aml_op(struct aml *aml, enum aml_opcode opcode);
void aml_region(struct aml *aml, const char *path, uint8_t space, uint64_t offset, uint64_t size);
void aml_field_unit(struct aml *aml, const char *name, uint8_t bits); /* at most 63 bits */
void aml_field_skip(struct aml *aml, uint8_t bits);
/* EISAID ("PNP0501"). */
void aml_eisa_id(struct aml *aml, const char *id);

/* A resource template; its descriptors go between begin and end. */
void aml_resources(struct aml *aml);
void aml_resources_end(struct aml *aml);
void aml_io(struct aml *aml, uint16_t port, uint8_t count);
void aml_irq(struct aml *aml, uint8_t irq); /* edge, active high, exclusive */
/* Level, active low, shared: one of the ISA interrupts in the mask. */
void aml_irq_level(struct aml *aml, uint16_t irqs);
void aml_memory32(struct aml *aml, uint32_t gpa, uint32_t size);
void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last);
void aml_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_memory_window64(struct aml *aml, uint64_t first, uint64_t last);

#endif
