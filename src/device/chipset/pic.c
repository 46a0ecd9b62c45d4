/*
 * Two 8259A as in a PC/AT: the slave's INT on the master's input 2, INTR on LINT0 of the first CPU, and the
 * edge/level control registers of PCI chipsets. Terms and rules: Intel 8259A data sheet ("Initialization
 * Command Words", "Operation Command Words", "Fully Nested Mode", "Special Mask Mode", "The Special Fully
 * Nested Mode", "Poll Command").
 */
#include "device/chipset/pic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define CASCADE 2

#define ICW1_IC4  0x01
#define ICW1_SNGL 0x02
#define ICW1_LTIM 0x08
#define ICW1      0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW3      0x08
#define OCW3_RIS  0x01
#define OCW3_RR   0x02
#define OCW3_POLL 0x04
#define OCW3_SMM  0x20
#define OCW3_ESMM 0x40

struct chip {
	uint8_t irr, imr, isr;
	uint8_t level; /* the inputs' levels */
	uint8_t elcr, elcr_mask;
	uint8_t vector_base;
	uint8_t lowest; /* input with the lowest priority; 7 after initialization */
	uint8_t icw4;
	uint8_t init_step; /* 0: initialized, else the ICW expected next */
	bool single, needs_icw4, level_triggered;
	bool read_isr, poll, special_mask, rotate_on_aeoi;
	bool output;
};

struct pic {
	struct machine *machine;
	struct chip chip[2];
};

/* Priority of an input: 0 is the highest. */
static unsigned priority(const struct chip *chip, unsigned input)
{
	return (input - chip->lowest - 1) & 7;
}

/* The highest-priority input in `set`, or -1. */
static int highest(const struct chip *chip, uint8_t set)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned input = (chip->lowest + 1 + i) & 7;

		if (set & 1u << input)
			return (int)input;
	}
	return -1;
}

/* The input whose request goes out, or -1. */
static int requested(const struct pic *pic, const struct chip *chip)
{
	int input = highest(chip, chip->irr & (uint8_t)~chip->imr);
	uint8_t in_service = chip->isr;
	int serving;

	if (input < 0)
		return -1;
	if (chip->special_mask) /* levels masked while in service block nothing */
		in_service &= (uint8_t)~chip->imr;
	/* In special fully nested mode the slave may interrupt again while its input is in service. */
	if ((chip->icw4 & ICW4_SFNM) && chip == &pic->chip[0] && input == CASCADE)
		in_service &= (uint8_t)~(1u << CASCADE);
	serving = highest(chip, in_service);
	if (serving >= 0 && priority(chip, (unsigned)serving) <= priority(chip, (unsigned)input))
		return -1;
	return input;
}

static bool is_level(const struct chip *chip, unsigned input)
{
	return chip->level_triggered || (chip->elcr & 1u << input);
}

static void set_input(struct chip *chip, unsigned input, bool level)
{
	uint8_t bit = (uint8_t)(1u << input);

	if (is_level(chip, input)) {
		if (level)
			chip->irr |= bit;
		else
			chip->irr &= (uint8_t)~bit;
	} else if (level && !(chip->level & bit)) {
		chip->irr |= bit;
	} else if (!level) {
		/* An input must stay high until INTA: the latch is transparent to its falling. */
		chip->irr &= (uint8_t)~bit;
	}
	if (level)
		chip->level |= bit;
	else
		chip->level &= (uint8_t)~bit;
}

static void update(struct pic *pic)
{
	struct chip *master = &pic->chip[0], *slave = &pic->chip[1];

	slave->output = slave->init_step == 0 && requested(pic, slave) >= 0;
	set_input(master, CASCADE, slave->output);
	master->output = master->init_step == 0 && requested(pic, master) >= 0;
	machine_set_extint(pic->machine, master->output);
}

static void pic_set_line(void *state, unsigned input, bool level)
{
	struct pic *pic = state;

	set_input(&pic->chip[input >> 3], input & 7, level);
	update(pic);
}

/* What an acknowledge cycle does to the chip. */
static void serve(struct chip *chip, unsigned input)
{
	if (chip->icw4 & ICW4_AEOI) {
		if (chip->rotate_on_aeoi)
			chip->lowest = (uint8_t)input;
	} else {
		chip->isr |= (uint8_t)(1u << input);
	}
	if (!is_level(chip, input))
		chip->irr &= (uint8_t)~(1u << input);
}

int pic_acknowledge(struct pic *pic)
{
	struct chip *master = &pic->chip[0], *slave = &pic->chip[1];
	int input = requested(pic, master);
	int vector;

	if (input < 0 || !master->output)
		return -1;
	serve(master, (unsigned)input);
	if (input == CASCADE && !master->single) {
		int slave_input = requested(pic, slave);

		if (slave_input >= 0)
			serve(slave, (unsigned)slave_input);
		else
			slave_input = 7; /* spurious: no ISR bit */
		vector = slave->vector_base + slave_input;
		/* The cascade's edge is the slave's next request: without this a second one would not be
		 * seen. */
		set_input(master, CASCADE, false);
	} else {
		vector = master->vector_base + input;
	}
	update(pic);
	return vector;
}

static void write_icw1(struct chip *chip, uint8_t value)
{
	chip->irr = 0;
	chip->imr = 0;
	chip->isr = 0;
	chip->lowest = 7;
	chip->special_mask = false;
	chip->read_isr = false;
	chip->poll = false;
	chip->rotate_on_aeoi = false;
	chip->icw4 = 0;
	chip->single = value & ICW1_SNGL;
	chip->needs_icw4 = value & ICW1_IC4;
	chip->level_triggered = value & ICW1_LTIM;
	chip->init_step = 2;
	/* Level inputs are requests again at once; "the edge sense circuit is reset" for the others. */
	for (unsigned input = 0; input < 8; input++)
		if (is_level(chip, input) && (chip->level & 1u << input))
			chip->irr |= (uint8_t)(1u << input);
}

static void write_icw(struct chip *chip, uint8_t value)
{
	switch (chip->init_step) {
	case 2:
		chip->vector_base = value & 0xf8;
		chip->init_step = chip->single ? (chip->needs_icw4 ? 4 : 0) : 3;
		break;
	case 3:
		chip->init_step = chip->needs_icw4 ? 4 : 0;
		break;
	default:
		chip->icw4 = value;
		chip->init_step = 0;
		break;
	}
}

/* "End of Interrupt (EOI)", "Automatic Rotation", "Specific Rotation". */
static void write_ocw2(struct chip *chip, uint8_t value)
{
	unsigned input = value & 7;
	uint8_t candidates = chip->special_mask ? chip->isr & (uint8_t)~chip->imr : chip->isr;
	int serving = highest(chip, candidates);

	switch (value >> 5) {
	case 0: /* rotate in automatic EOI mode: clear */
		chip->rotate_on_aeoi = false;
		break;
	case 1: /* non-specific EOI */
	case 5: /* rotate on non-specific EOI */
		if (serving < 0)
			break;
		chip->isr &= (uint8_t)~(1u << serving);
		if (value & 0x80)
			chip->lowest = (uint8_t)serving;
		break;
	case 3: /* specific EOI */
	case 7: /* rotate on specific EOI */
		chip->isr &= (uint8_t)~(1u << input);
		if (value & 0x80)
			chip->lowest = (uint8_t)input;
		break;
	case 4: /* rotate in automatic EOI mode: set */
		chip->rotate_on_aeoi = true;
		break;
	case 6: /* set priority */
		chip->lowest = (uint8_t)input;
		break;
	default: /* 2: no operation */
		break;
	}
}

static void write_ocw3(struct chip *chip, uint8_t value)
{
	if (value & OCW3_ESMM)
		chip->special_mask = value & OCW3_SMM;
	if (value & OCW3_POLL)
		chip->poll = true;
	else if (value & OCW3_RR)
		chip->read_isr = value & OCW3_RIS;
}

static void chip_write(struct pic *pic, struct chip *chip, uint64_t offset, uint64_t value)
{
	uint8_t byte = (uint8_t)value;

	if (offset == 0) {
		if (byte & ICW1)
			write_icw1(chip, byte);
		else if (byte & OCW3)
			write_ocw3(chip, byte);
		else
			write_ocw2(chip, byte);
	} else if (chip->init_step) {
		write_icw(chip, byte);
	} else {
		chip->imr = byte;
	}
	update(pic);
}

/* A read after the poll command is an acknowledge: bit 7 "there was a request", bits 2:0 the input. */
static uint8_t poll(struct pic *pic, struct chip *chip)
{
	int input = requested(pic, chip);

	chip->poll = false;
	if (input < 0)
		return 0;
	serve(chip, (unsigned)input);
	update(pic);
	return (uint8_t)(0x80 | input);
}

static uint64_t chip_read(struct pic *pic, struct chip *chip, uint64_t offset)
{
	if (chip->poll)
		return poll(pic, chip);
	if (offset == 1)
		return chip->imr;
	return chip->read_isr ? chip->isr : chip->irr;
}

static uint64_t master_read(void *state, uint64_t offset, unsigned size)
{
	struct pic *pic = state;

	return chip_read(pic, &pic->chip[0], offset);
}

static void master_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pic *pic = state;

	chip_write(pic, &pic->chip[0], offset, value);
}

static uint64_t slave_read(void *state, uint64_t offset, unsigned size)
{
	struct pic *pic = state;

	return chip_read(pic, &pic->chip[1], offset);
}

static void slave_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pic *pic = state;

	chip_write(pic, &pic->chip[1], offset, value);
}

static uint64_t elcr_read(void *state, uint64_t offset, unsigned size)
{
	struct pic *pic = state;

	return pic->chip[offset].elcr;
}

static void elcr_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pic *pic = state;
	struct chip *chip = &pic->chip[offset];

	chip->elcr = (uint8_t)value & chip->elcr_mask;
	for (unsigned input = 0; input < 8; input++)
		if (chip->elcr & 1u << input)
			set_input(chip, input, chip->level & 1u << input);
	update(pic);
}

static void pic_reset(void *state)
{
	struct pic *pic = state;

	for (unsigned i = 0; i < 2; i++) {
		struct chip *chip = &pic->chip[i];
		uint8_t level = i == 0 ? chip->level & (uint8_t)~(1u << CASCADE) : chip->level;

		/* Uninitialized chips stay silent until ICW1 … ICW4. */
		*chip = (struct chip){
		    .level = level, .lowest = 7, .imr = 0xff, .elcr_mask = i == 0 ? 0xf8 : 0xde};
	}
	update(pic);
}

static void describe(void *context, FILE *out)
{
	const struct pic *pic = context;

	for (unsigned i = 0; i < 2; i++) {
		const struct chip *chip = &pic->chip[i];

		fprintf(out,
		        "    %s: inputs %02x requests %02x masked %02x in service %02x level-triggered %02x "
		        "vectors %#x\n",
		        i ? "slave" : "master", chip->level, chip->irr, chip->imr, chip->isr, chip->elcr,
		        chip->vector_base);
	}
}

static const struct bus_ops master_ops = {1, master_read, master_write};
static const struct bus_ops slave_ops = {1, slave_read, slave_write};
static const struct bus_ops elcr_ops = {1, elcr_read, elcr_write};

int pic_create(struct machine *machine)
{
	struct pic *pic = calloc(1, sizeof(*pic));
	int error;

	if (!pic)
		return error_set(ENOMEM, "out of memory");
	pic->machine = machine;
	error = machine_add_device(machine, "pic", pic, pic_reset, free);
	if (error) {
		free(pic);
		return error;
	}
	machine->pic = pic;
	machine_add_description(machine, "irq", "8259", describe, pic);
	for (unsigned input = 0; input < 16; input++)
		if (input != CASCADE)
			irq_line_add_sink(&machine->irq[input], pic_set_line, pic, input);
	error = bus_add(&machine->pio, PLATFORM_PIC_MASTER, 2, &master_ops, pic, "pic");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_PIC_SLAVE, 2, &slave_ops, pic, "pic");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_ELCR, 2, &elcr_ops, pic, "elcr");
	return error;
}
