/*
 * Configuration space, BARs, MSI, MSI-X and INTx (PCI Local Bus Specification 3.0; PCI Express Base Specification), the
 * q35 host bridge and the LPC bridge (Intel 3 Series Chipset and ICH9 data sheets).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine_fixture.h"

#define ECAM   0xb0000000u
#define IOAPIC 0xfec00000u
#define ONES   0xffffffffu

static struct machine *machine;

/* A function with one BAR of each kind. */
struct card {
	struct pci_function function;
	uint64_t last_offset, last_value;
	unsigned last_size, written;
};

static struct card card[3];
static uint8_t *ram;

static uint64_t card_read(void *state, uint64_t offset, unsigned size)
{
	return 0xa0 + offset;
}

static void card_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct card *this = state;

	this->last_offset = offset;
	this->last_value = value;
	this->last_size = size;
}

static void card_config_written(void *state, unsigned offset, unsigned size)
{
	struct card *this = state;

	this->written++;
}

static const struct bus_ops card_ops = {8, card_read, card_write};

#define CARD_SLOT(n) (4 + (n))
#define BAR_PORTS    0
#define BAR_MEMORY   1
#define BAR_WIDE     2
#define BAR_MSIX     4
#define BAR_RAM      5

static void add_card(unsigned n, uint8_t pin)
{
	const struct pci_identity identity = {0x1234, 0x5678, 0x9abc, 0xdef0, 0x0c0330, 7, pin};
	struct card *this = &card[n];

	memset(this, 0, sizeof(*this));
	pci_init(&this->function, "card", this, &identity);
	this->function.config_written = card_config_written;
	pci_bar_io(&this->function, BAR_PORTS, 32, &card_ops);
	pci_bar_memory(&this->function, BAR_MEMORY, 4096, false, &card_ops);
	pci_bar_memory(&this->function, BAR_WIDE, 1u << 20, true, &card_ops);
	pci_add_msi(&this->function);
	pci_add_msix(&this->function, 5, BAR_MSIX);
	pci_bar_ram(&this->function, BAR_RAM, 65536, ram, false);
	pci_bar_ram(&this->function, PCI_BARS, 65536, ram + 65536, true);
	pci_add_express(&this->function);
	machine_lock(machine);
	assert_int_equal(pci_add(machine, &this->function, CARD_SLOT(n), 0), 0);
	machine_unlock(machine);
}

static int setup(void **state)
{
	machine = fixture_create("null");
	ram = aligned_alloc(4096, 131072);
	assert_non_null(ram);
	memset(ram, 0x5a, 131072);
	add_card(0, 1);
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	free(ram);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void select_register(unsigned slot, unsigned offset)
{
	out(machine, 0xcf8, 4, 0x80000000 | slot << 11 | (offset & 0xfc));
}

static uint32_t config(unsigned slot, unsigned offset, unsigned size)
{
	select_register(slot, offset);
	return in(machine, (uint16_t)(0xcfc + (offset & 3)), size);
}

static void set_config(unsigned slot, unsigned offset, unsigned size, uint32_t value)
{
	select_register(slot, offset);
	out(machine, (uint16_t)(0xcfc + (offset & 3)), size, value);
}

static uint32_t read_card(unsigned offset, unsigned size)
{
	return config(CARD_SLOT(0), offset, size);
}

static void write_card(unsigned offset, unsigned size, uint32_t value)
{
	set_config(CARD_SLOT(0), offset, size, value);
}

/* ---- configuration space ---- */

static void header(void **state)
{
	assert_int_equal(read_card(0, 4), 0x56781234);
	assert_int_equal(read_card(8, 4), 0x0c033007);
	assert_int_equal(read_card(0x2c, 4), 0xdef09abc);
	assert_int_equal(read_card(0x3d, 1), 1);
	assert_int_equal(read_card(2, 2), 0x5678);
	assert_int_equal(read_card(1, 1), 0x12);
	write_card(0, 4, ONES);
	write_card(8, 4, ONES);
	assert_int_equal(read_card(0, 4), 0x56781234);
	assert_int_equal(read_card(8, 4), 0x0c033007);
	write_card(0x3c, 4, 0xffffff0b);
	assert_int_equal(read_card(0x3c, 2), 0x010b);
	assert_int_equal(card[0].written, 3);
}

static void command_register_has_the_bits_that_do_something(void **state)
{
	write_card(4, 2, 0xffff);
	assert_int_equal(read_card(4, 2), 0x0547);
	write_card(4, 2, 0);
	assert_int_equal(read_card(4, 2), 0);
}

static void absent_functions_read_as_ones(void **state)
{
	assert_int_equal(config(9, 0, 4), ONES);
	set_config(9, 4, 4, 0xffff);
	out(machine, 0xcf8, 4, 0x80010000); /* bus 1 */
	assert_int_equal(in(machine, 0xcfc, 4), ONES);
	out(machine, 0xcf8, 4, 0); /* not enabled */
	assert_int_equal(in(machine, 0xcfc, 4), ONES);
	assert_int_equal(load(machine, ECAM + (9u << 15), 4), ONES);
	assert_int_equal(load(machine, ECAM + (1u << 20), 4), ONES);
}

static void ecam_is_the_same_space_and_more(void **state)
{
	uint64_t base = ECAM + (CARD_SLOT(0) << 15);

	assert_int_equal(load(machine, base, 4), 0x56781234);
	assert_int_equal(load(machine, base + 8, 8), (UINT64_C(0) << 32) | 0x0c033007);
	store(machine, base + 0x3c, 1, 5);
	assert_int_equal(read_card(0x3c, 1), 5);
	assert_int_equal(load(machine, base + 0x100, 4), 0); /* no extended capability */
	assert_int_equal(load(machine, base + 0xffe, 4) & 0xffff, 0); /* the next function is not there */
}

static void pciexbar_moves_ecam(void **state)
{
	assert_int_equal(config(0, 0x60, 4), ECAM | 1);
	set_config(0, 0x60, 4, 0);
	assert_int_equal(load(machine, ECAM, 4), ONES);
	set_config(0, 0x60, 4, 0xe0000001);
	assert_int_equal(load(machine, 0xe0000000, 4), 0x29c08086);
	set_config(0, 0x60, 4, 0xe4000005); /* 64 MiB */
	assert_int_equal(load(machine, 0xe0000000, 4), ONES);
	assert_int_equal(load(machine, 0xe4000000, 4), 0x29c08086);
	assert_int_equal(load(machine, 0xe8000000, 4), ONES);
	set_config(0, 0x60, 4, 0xe4000007); /* reserved length: nowhere */
	assert_int_equal(load(machine, 0xe4000000, 4), ONES);
}

/* What SeaBIOS does when it wakes from suspend to RAM: off, the upper half, on again, all through ECAM. */
static void ecam_survives_being_placed_through_itself(void **state)
{
	store(machine, ECAM + 0x60, 4, 0);
	store(machine, ECAM + 0x64, 4, 0);
	store(machine, ECAM + 0x60, 4, ECAM | 1);
	assert_int_equal(load(machine, ECAM, 4), 0x29c08086);
	/* Off and no more of it: the next access to anything else finds nothing. */
	store(machine, ECAM + 0x60, 4, 0);
	assert_int_equal(load(machine, ECAM, 4), ONES);
	assert_int_equal(load(machine, ECAM + 0x60, 4), ONES);
	assert_int_equal(config(0, 0x60, 4), 0);
	/* Off by itself, on elsewhere by ports. */
	set_config(0, 0x60, 4, ECAM | 1);
	store(machine, ECAM + 0x60, 4, 0);
	set_config(0, 0x60, 4, 0xe0000001);
	assert_int_equal(load(machine, ECAM, 4), ONES);
	assert_int_equal(load(machine, 0xe0000000, 4), 0x29c08086);
}

static void capabilities_form_a_list(void **state)
{
	uint8_t seen[16] = {0};
	unsigned offset, count = 0;

	assert_int_equal(read_card(6, 2) & 0x10, 0x10);
	for (offset = read_card(0x34, 1); offset && count < 16; offset = read_card(offset + 1, 1)) {
		assert_true(offset >= 0x40 && offset % 4 == 0);
		seen[count++] = (uint8_t)read_card(offset, 1);
	}
	assert_int_equal(count, 3);
	assert_int_equal(seen[0], 0x05);
	assert_int_equal(seen[1], 0x11);
	assert_int_equal(seen[2], 0x10);
	assert_int_equal(config(0, 6, 2) & 0x10, 0);
}

static void second_function_makes_the_slot_multifunction(void **state)
{
	const struct pci_identity identity = {.vendor = 1, .device = 2};
	static struct pci_function second, again;

	assert_int_equal(read_card(0x0e, 1), 0);
	pci_init(&second, "second", NULL, &identity);
	pci_init(&again, "again", NULL, &identity);
	machine_lock(machine);
	assert_int_equal(pci_add(machine, &second, CARD_SLOT(0), 3), 0);
	assert_int_equal(pci_add(machine, &again, CARD_SLOT(0), 3), -EEXIST);
	machine_unlock(machine);
	assert_int_equal(read_card(0x0e, 1), 0x80);
	machine_lock(machine);
	machine_reset_devices(machine);
	pci_reset(&card[0].function);
	machine_unlock(machine);
	assert_int_equal(read_card(0x0e, 1), 0x80);
}

static void slots_run_out(void **state)
{
	const struct pci_identity identity = {.vendor = 1, .device = 2};
	static struct pci_function many[32];
	unsigned added = 0;
	int error = 0;

	for (; added < 32 && !error; added++) {
		pci_init(&many[added], "many", NULL, &identity);
		machine_lock(machine);
		error = pci_add(machine, &many[added], PCI_SLOT_ANY, 0);
		machine_unlock(machine);
	}
	assert_int_equal(error, -ENOSPC);
	assert_int_equal(many[0].slot, 2);
	assert_in_range(added, 25, 29);
}

/* ---- BARs ---- */

static void bar_sizing(void **state)
{
	static const struct {
		unsigned offset;
		uint32_t ones;
	} expected[] = {
	    {0x10, 0xffffffe1}, {0x14, 0xfffff000}, {0x18, 0xfff00004}, {0x1c, ONES},
	    {0x20, 0xfffff000}, {0x24, 0xffff0008}, {0x30, 0xffff0001},
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		write_card(expected[i].offset, 4, ONES);
		assert_int_equal(read_card(expected[i].offset, 4), expected[i].ones);
		write_card(expected[i].offset, 4, 0);
	}
	assert_int_equal(config(0, 0x10, 4), 0);
	set_config(0, 0x10, 4, ONES);
	assert_int_equal(config(0, 0x10, 4), 0); /* the host bridge has none */
}

static void bars_decode_as_the_command_register_says(void **state)
{
	write_card(0x10, 4, 0xd000);
	write_card(0x14, 4, 0xd0000000);
	assert_int_equal(in(machine, 0xd003, 1), 0xff);
	write_card(4, 2, 1);
	assert_int_equal(in(machine, 0xd003, 1), 0xa3);
	assert_int_equal(in(machine, 0xd01f, 1), 0xbf);
	assert_int_equal(in(machine, 0xd020, 1), 0xff);
	assert_int_equal(load(machine, 0xd0000010, 4), ONES);
	write_card(4, 2, 3);
	assert_int_equal(load(machine, 0xd0000010, 4), 0xb0);
	store(machine, 0xd0000ff8, 8, 0x1122334455667788);
	assert_int_equal(card[0].last_offset, 0xff8);
	assert_int_equal(card[0].last_size, 8);
	assert_true(card[0].last_value == 0x1122334455667788);
	write_card(4, 2, 2);
	assert_int_equal(in(machine, 0xd003, 1), 0xff);
}

static void bar_moves_while_decoded(void **state)
{
	write_card(4, 2, 2);
	write_card(0x14, 4, 0xd0000000);
	write_card(0x14, 4, 0xd0001000);
	assert_int_equal(load(machine, 0xd0000000, 4), ONES);
	assert_int_equal(load(machine, 0xd0001000, 4), 0xa0);
	write_card(0x14, 4, ONES); /* sized without switching decoding off */
	assert_int_equal(load(machine, 0xd0001000, 4), ONES);
	write_card(0x14, 4, 0xd0001000);
	assert_int_equal(load(machine, 0xd0001000, 4), 0xa0);
}

static void wide_bar_goes_above_4_gib(void **state)
{
	write_card(4, 2, 2);
	write_card(0x18, 4, 0x00100000);
	write_card(0x1c, 4, 3);
	assert_int_equal(load(machine, UINT64_C(0x300100020), 4), 0xc0);
	assert_int_equal(read_card(0x18, 4), 0x00100004);
	write_card(0x1c, 4, ONES); /* beyond any physical address */
	assert_int_equal(load(machine, UINT64_C(0x300100020), 4), ONES);
	assert_true(card[0].function.bar[BAR_WIDE].mapped == PCI_NOWHERE);
}

static void ports_beyond_64_kib_are_not_decoded(void **state)
{
	write_card(4, 2, 1);
	write_card(0x10, 4, 0x1d000);
	assert_int_equal(in(machine, 0xd000, 1), 0xff);
	assert_true(card[0].function.bar[BAR_PORTS].mapped == PCI_NOWHERE);
	write_card(0x10, 4, 0xffe0);
	assert_int_equal(in(machine, 0xffe0, 1), 0xa0);
}

static void first_owner_keeps_an_address(void **state)
{
	write_card(4, 2, 3);
	write_card(0x10, 4, 0x60); /* the keyboard controller's and more */
	assert_int_not_equal(in(machine, 0x64, 1), 0xa4);
	write_card(0x14, 4, IOAPIC);
	assert_int_equal(load(machine, IOAPIC, 4), 0);
	store(machine, IOAPIC, 4, 1);
	assert_int_equal(load(machine, IOAPIC + 0x10, 4) & 0xff, 0x20);
	write_card(0x14, 4, 0xd0000000);
	assert_int_equal(load(machine, 0xd0000000, 4), 0xa0);
}

static void bar_that_waited_gets_its_place(void **state)
{
	add_card(1, 2);
	write_card(4, 2, 2);
	write_card(0x14, 4, 0xd0000000);
	set_config(CARD_SLOT(1), 4, 2, 2);
	set_config(CARD_SLOT(1), 0x14, 4, 0xd0000000);
	store(machine, 0xd0000010, 4, 1);
	assert_int_equal(card[0].last_offset, 0x10);
	assert_int_equal(card[1].last_size, 0);
	write_card(0x14, 4, 0xd0010000); /* the first leaves */
	store(machine, 0xd0000020, 4, 2);
	assert_int_equal(card[1].last_offset, 0x20);
	store(machine, 0xd0010030, 4, 3);
	assert_int_equal(card[0].last_offset, 0x30);
}

static void swapping_two_bars(void **state)
{
	add_card(1, 2);
	write_card(4, 2, 2);
	write_card(0x14, 4, 0xd0000000);
	set_config(CARD_SLOT(1), 4, 2, 2);
	set_config(CARD_SLOT(1), 0x14, 4, 0xd0001000);
	write_card(0x14, 4, 0xd0001000);
	set_config(CARD_SLOT(1), 0x14, 4, 0xd0000000);
	store(machine, 0xd0001010, 4, 1);
	assert_int_equal(card[0].last_offset, 0x10);
	store(machine, 0xd0000020, 4, 2);
	assert_int_equal(card[1].last_offset, 0x20);
}

static void memory_bar_is_memory(void **state)
{
	write_card(4, 2, 2);
	write_card(0x24, 4, 0xd0100000);
	assert_ptr_equal(machine_memory(machine, GPA(0xd0100000), 65536), ram);
	write_card(0x24, 4, 0xd0200000);
	assert_null(machine_memory(machine, GPA(0xd0100000), 1));
	assert_ptr_equal(machine_memory(machine, GPA(0xd0200000), 65536), ram);
	write_card(0x24, 4, 0x00100000); /* RAM stays RAM */
	assert_ptr_not_equal(machine_memory(machine, GPA(0x00100000), 1), ram);
	assert_non_null(machine_memory(machine, GPA(0x00100000), 1));
	assert_null(machine_memory(machine, GPA(0xd0200000), 1));
	write_card(0x24, 4, IOAPIC & ~0xffffu); /* over the IOAPIC */
	assert_null(machine_memory(machine, GPA(IOAPIC), 1));
	write_card(0x24, 4, 0xfee00000); /* over the local APICs */
	assert_null(machine_memory(machine, GPA(0xfee00000), 1));
	write_card(0x14, 4, 0xfffff000); /* where firmware is, or would be */
	assert_true(card[0].function.bar[BAR_MEMORY].mapped == PCI_NOWHERE);
	write_card(0x24, 4, 0xd0200000);
	write_card(4, 2, 0);
	assert_null(machine_memory(machine, GPA(0xd0200000), 1));
}

static void option_rom_has_an_enable_bit_of_its_own(void **state)
{
	write_card(4, 2, 2);
	write_card(0x30, 4, 0xd0300000);
	assert_null(machine_memory(machine, GPA(0xd0300000), 1));
	write_card(0x30, 4, 0xd0300001);
	assert_ptr_equal(machine_memory(machine, GPA(0xd0300000), 65536), ram + 65536);
	assert_true(guest_memory_slot_of(&machine->memory, GPA(0xd0300000))->read_only);
}

static void reset_undoes_everything(void **state)
{
	write_card(4, 2, 7);
	write_card(0x14, 4, 0xd0000000);
	write_card(0x24, 4, 0xd0100000);
	machine_lock(machine);
	pci_set_intx(&card[0].function, true);
	pci_reset(&card[0].function);
	machine_unlock(machine);
	assert_int_equal(read_card(4, 4), 0x00100000);
	assert_int_equal(read_card(0x14, 4), 0);
	assert_int_equal(load(machine, 0xd0000000, 4), ONES);
	assert_null(machine_memory(machine, GPA(0xd0100000), 1));
	assert_false(machine->irq[20].asserted);
}

static void setup_gives_every_bar_a_place(void **state)
{
	const struct pci_function *function = &card[0].function;

	add_card(1, 2);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	assert_int_equal(load(machine, ECAM, 4), ONES);
	assert_int_equal(in(machine, 0x608, 4), ONES);
	assert_int_equal(pci_setup(machine), 0);
	assert_int_equal(load(machine, ECAM, 4), 0x29c08086);
	assert_int_not_equal(in(machine, 0x608, 4), ONES);
	assert_int_equal(read_card(4, 2), 7);
	assert_int_equal(read_card(0x3c, 1), 10);
	for (unsigned i = 0; i < PCI_BARS; i++) {
		if (!function->bar[i].size)
			continue;
		assert_true(function->bar[i].mapped != PCI_NOWHERE);
		assert_true(function->bar[i].mapped % function->bar[i].size == 0);
		assert_true(function->bar[i].mapped != card[1].function.bar[i].mapped);
	}
}

/* ---- interrupts ---- */

static void route_pin(unsigned gsi, uint32_t entry)
{
	store(machine, IOAPIC, 4, 0x10 + 2 * gsi);
	store(machine, IOAPIC + 0x10, 4, entry);
}

static void set_intx(unsigned n, bool level)
{
	machine_lock(machine);
	pci_set_intx(&card[n].function, level);
	machine_unlock(machine);
}

static void pins_rotate_over_the_pirqs(void **state)
{
	assert_int_equal(pci_pirq(0, 1), 4);
	assert_int_equal(pci_pirq(1, 1), 5);
	assert_int_equal(pci_pirq(4, 1), 4);
	assert_int_equal(pci_pirq(4, 4), 7);
	assert_int_equal(pci_pirq(24, 2), 5);
	assert_int_equal(pci_pirq(25, 1), 0);
	assert_int_equal(pci_pirq(31, 2), 1);
}

static void intx_is_level_triggered_at_the_ioapic(void **state)
{
	route_pin(20, 0xa055); /* slot 4, INTA: PIRQE; level, active low */
	set_intx(0, true);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0] & 0xff, 0x55);
	assert_int_equal(read_card(6, 2) & 8, 8);
	machine->host.eoi(machine, 0x55); /* still asserted: again */
	assert_int_equal(fake_vm.msi_count, 2);
	set_intx(0, false);
	machine->host.eoi(machine, 0x55);
	assert_int_equal(fake_vm.msi_count, 2);
	assert_int_equal(read_card(6, 2) & 8, 0);
}

static void intx_goes_where_pirq_rout_says(void **state)
{
	init_pics(machine, 1, 1);
	assert_int_equal(config(31, 0x68, 1), 10); /* PIRQE, as set up */
	set_intx(0, true);
	assert_int_equal(acknowledge(machine), 0x2a);
	out(machine, 0xa0, 1, 0x20);
	out(machine, 0x20, 1, 0x20);
	assert_int_equal(acknowledge(machine), 0x2a); /* level: again */
	out(machine, 0xa0, 1, 0x20);
	out(machine, 0x20, 1, 0x20);
	set_config(31, 0x68, 1, 5);
	assert_false(machine->irq[10].asserted);
	assert_true(machine->irq[5].asserted);
	assert_int_equal(acknowledge(machine), 0x25);
	set_config(31, 0x68, 1, 0x85);
	assert_false(machine->irq[5].asserted);
	set_config(31, 0x68, 1, 8); /* the clock's: reserved */
	assert_false(machine->irq[8].asserted);
	assert_true(machine->irq[20].asserted);
}

static void intx_is_shared(void **state)
{
	add_card(1, 4); /* slot 5, INTD: PIRQE too */
	set_intx(0, true);
	set_intx(1, true);
	set_intx(0, false);
	assert_true(machine->irq[20].asserted);
	set_intx(1, false);
	assert_false(machine->irq[20].asserted);
}

static void intx_can_be_disabled(void **state)
{
	set_intx(0, true);
	write_card(4, 2, 0x400);
	assert_false(machine->irq[20].asserted);
	assert_int_equal(read_card(6, 2) & 8, 8); /* "Interrupt Status" shows it nevertheless */
	write_card(4, 2, 0);
	assert_true(machine->irq[20].asserted);
}

static unsigned capability(uint8_t id)
{
	unsigned offset = read_card(0x34, 1);

	while (offset && read_card(offset, 1) != id)
		offset = read_card(offset + 1, 1);
	assert_true(offset);
	return offset;
}

static void send_msi(void)
{
	machine_lock(machine);
	pci_send_msi(&card[0].function);
	machine_unlock(machine);
}

static void msi(void **state)
{
	unsigned offset = capability(5);

	assert_int_equal(read_card(offset + 2, 2), 0x80); /* 64 bits, one vector */
	write_card(offset + 4, 4, 0xfee01003);
	write_card(offset + 8, 4, 0);
	write_card(offset + 12, 2, 0x4041);
	write_card(4, 2, 4);
	send_msi();
	assert_int_equal(fake_vm.msi_count, 0);
	set_intx(0, true);
	assert_true(machine->irq[20].asserted);
	write_card(offset + 2, 2, ONES);
	assert_int_equal(read_card(offset + 2, 2), 0x81);
	assert_false(machine->irq[20].asserted); /* INTx is not used with MSI */
	send_msi();
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_address[0], 0xfee01000);
	assert_int_equal(fake_vm.msi_data[0], 0x4041);
	write_card(4, 2, 0); /* no master, no message */
	send_msi();
	assert_int_equal(fake_vm.msi_count, 1);
}

static void msi_elsewhere_is_a_memory_write(void **state)
{
	unsigned offset = capability(5);
	uint32_t value;

	write_card(offset + 4, 4, 0x00200000);
	write_card(offset + 12, 2, 0x1234);
	write_card(offset + 2, 2, 1);
	write_card(4, 2, 4);
	send_msi();
	assert_int_equal(fake_vm.msi_count, 0);
	memcpy(&value, machine_memory(machine, GPA(0x00200000), 4), 4);
	assert_int_equal(value, 0x1234);
	write_card(offset + 8, 4, ONES); /* nowhere */
	send_msi();
}

#define TABLE 0xd0400000u

static void send_msix(unsigned vector)
{
	machine_lock(machine);
	pci_send_msix(&card[0].function, vector);
	machine_unlock(machine);
}

static unsigned enable_msix(void)
{
	unsigned offset = capability(0x11);

	write_card(0x20, 4, TABLE);
	write_card(4, 2, 6);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(load(machine, TABLE + 16 * i + 12, 4), 1); /* masked after power-up */
		store(machine, TABLE + 16 * i, 8, 0xfee00000 + (i << 12));
		store(machine, TABLE + 16 * i + 8, 4, 0x50 + i);
	}
	write_card(offset + 2, 2, 0x8000);
	return offset;
}

static void msix_capability(void **state)
{
	unsigned offset = capability(0x11);

	assert_int_equal(read_card(offset + 2, 2), 4); /* five vectors */
	assert_int_equal(read_card(offset + 4, 4), BAR_MSIX);
	assert_int_equal(read_card(offset + 8, 4), 2048 | BAR_MSIX);
	write_card(offset + 2, 2, 0xffff);
	assert_int_equal(read_card(offset + 2, 2), 0xc004);
}

static void msix_entries_mask_and_hold(void **state)
{
	enable_msix();
	send_msix(3);
	assert_int_equal(fake_vm.msi_count, 0);
	assert_int_equal(load(machine, TABLE + 2048, 8), 8);
	store(machine, TABLE + 16 * 3 + 12, 4, 0xfffffffe);
	assert_int_equal(load(machine, TABLE + 16 * 3 + 12, 4), 0);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_address[0], 0xfee03000);
	assert_int_equal(fake_vm.msi_data[0], 0x53);
	assert_int_equal(load(machine, TABLE + 2048, 4), 0);
	send_msix(3);
	assert_int_equal(fake_vm.msi_count, 2);
	send_msix(5);
	send_msix(63);
	send_msix(1000);
	assert_int_equal(fake_vm.msi_count, 2);
}

static void msix_function_mask(void **state)
{
	unsigned offset = enable_msix();

	store(machine, TABLE + 12, 4, 0);
	store(machine, TABLE + 16 + 12, 4, 0);
	write_card(offset + 2, 2, 0xc000);
	send_msix(0);
	send_msix(1);
	send_msix(2);
	assert_int_equal(fake_vm.msi_count, 0);
	assert_int_equal(load(machine, TABLE + 2048, 4), 7);
	write_card(offset + 2, 2, 0x8000);
	assert_int_equal(fake_vm.msi_count, 2);
	assert_int_equal(load(machine, TABLE + 2048, 4), 4); /* masked by its entry */
}

static void msix_turns_intx_off(void **state)
{
	unsigned offset = enable_msix();

	set_intx(0, true);
	assert_false(machine->irq[20].asserted);
	write_card(offset + 2, 2, 0);
	assert_true(machine->irq[20].asserted);
	store(machine, TABLE + 12, 4, 0);
	send_msix(0);
	assert_int_equal(fake_vm.msi_count, 0);
}

static void msix_table_takes_whole_words(void **state)
{
	enable_msix();
	store(machine, TABLE, 2, 0x1111);
	store(machine, TABLE + 2, 4, 0x22222222);
	assert_int_equal(load(machine, TABLE, 4), 0xfee00000);
	store(machine, TABLE + 80, 4, 5); /* behind the table */
	assert_int_equal(load(machine, TABLE + 80, 4), 0);
	store(machine, TABLE + 2048, 4, 5); /* pending bits are the device's */
	assert_int_equal(load(machine, TABLE + 2048, 4), 0);
}

/* ---- the bridges ---- */

static void pam_and_smram_keep_what_firmware_writes(void **state)
{
	set_config(0, 0x90, 4, ONES);
	assert_int_equal(config(0, 0x90, 4), 0x33333330);
	set_config(0, 0x94, 4, ONES);
	assert_int_equal(config(0, 0x94, 4), 0x81333333);
	assert_int_equal(config(0, 0x9d, 1), 0x02);
	set_config(0, 0x9d, 1, 0x48);
	assert_int_equal(config(0, 0x9d, 1), 0x4a);
	set_config(0, 0x9d, 1, 0x1a); /* D_LCK */
	set_config(0, 0x9d, 1, 0x48);
	assert_int_equal(config(0, 0x9d, 1) & 0x58, 0x18);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	assert_int_equal(config(0, 0x9d, 1), 0x02);
	set_config(0, 0x9d, 1, 0x48);
	assert_int_equal(config(0, 0x9d, 1), 0x4a);
}

static void pmbase_moves_the_acpi_block(void **state)
{
	assert_int_equal(config(31, 0x40, 4), 0x601);
	set_config(31, 0x40, 4, 0xb001);
	assert_int_equal(in(machine, 0x604, 2), 0xffff);
	assert_int_equal(in(machine, 0xb004, 2) & 1, 1);
	assert_int_equal(in(machine, 0xb030, 4) & 0x20, 0x20); /* SMI_EN: APMC_EN */
	set_config(31, 0x44, 1, 0);
	assert_int_equal(in(machine, 0xb004, 2), 0xffff);
	set_config(31, 0x44, 1, 0x80);
	set_config(31, 0x40, 4, 0x0001); /* zero: nowhere */
	assert_int_equal(in(machine, 0xb004, 2), 0xffff);
	set_config(31, 0x40, 4, 0x0c81); /* over configuration space's ports */
	assert_int_equal(config(31, 0, 4), 0x29188086);
	set_config(31, 0x40, 4, 0x0601);
	assert_int_equal(in(machine, 0x604, 2) & 1, 1);
}

static void rcba_places_the_chipset_registers(void **state)
{
	assert_int_equal(config(31, 0xf0, 4), 0xfed1c001);
	assert_int_equal(load(machine, 0xfed1c000 + 0x3410, 4), 0x20); /* GCS: no reboot by a watchdog */
	store(machine, 0xfed1c000 + 0x3410, 4, 0);
	assert_int_equal(load(machine, 0xfed1c000 + 0x3410, 4), 0x20);
	store(machine, 0xfed1c000 + 0x3140, 2, 0x3210);
	assert_int_equal(load(machine, 0xfed1c000 + 0x3140, 2), 0x3210);
	store(machine, 0xfed1c000 + 0x3ffe, 8, UINT64_MAX); /* across its end */
	set_config(31, 0xf0, 4, 0xfed1c000);
	assert_int_equal(load(machine, 0xfed1c000 + 0x3140, 2), 0xffff);
}

static void description_names_every_function(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_true(machine_describe(machine, "pci", out));
	fclose(out);
	assert_non_null(strstr(text, "00:00.0 8086:29c0"));
	assert_non_null(strstr(text, "00:04.0 1234:5678 class 0c0330 card"));
	assert_non_null(strstr(text, "00:1f.0 8086:2918"));
	free(text);
	out = open_memstream(&text, &size);
	route_pin(20, 0xa055);
	set_intx(0, true);
	assert_true(machine_describe(machine, "irq", out));
	fclose(out);
	assert_non_null(strstr(text, "PIRQE: IOAPIC input 20, IRQ 10, asserted"));
	assert_non_null(strstr(text, "20: vector 0x55 fixed to CPU 0, level, high, in service"));
	assert_non_null(strstr(text, "slave: inputs 04"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(header),
	    TEST(command_register_has_the_bits_that_do_something),
	    TEST(absent_functions_read_as_ones),
	    TEST(ecam_is_the_same_space_and_more),
	    TEST(pciexbar_moves_ecam),
	    TEST(ecam_survives_being_placed_through_itself),
	    TEST(capabilities_form_a_list),
	    TEST(second_function_makes_the_slot_multifunction),
	    TEST(slots_run_out),
	    TEST(bar_sizing),
	    TEST(bars_decode_as_the_command_register_says),
	    TEST(bar_moves_while_decoded),
	    TEST(wide_bar_goes_above_4_gib),
	    TEST(ports_beyond_64_kib_are_not_decoded),
	    TEST(first_owner_keeps_an_address),
	    TEST(bar_that_waited_gets_its_place),
	    TEST(swapping_two_bars),
	    TEST(memory_bar_is_memory),
	    TEST(option_rom_has_an_enable_bit_of_its_own),
	    TEST(reset_undoes_everything),
	    TEST(setup_gives_every_bar_a_place),
	    TEST(pins_rotate_over_the_pirqs),
	    TEST(intx_is_level_triggered_at_the_ioapic),
	    TEST(intx_goes_where_pirq_rout_says),
	    TEST(intx_is_shared),
	    TEST(intx_can_be_disabled),
	    TEST(msi),
	    TEST(msi_elsewhere_is_a_memory_write),
	    TEST(msix_capability),
	    TEST(msix_entries_mask_and_hold),
	    TEST(msix_function_mask),
	    TEST(msix_turns_intx_off),
	    TEST(msix_table_takes_whole_words),
	    TEST(pam_and_smram_keep_what_firmware_writes),
	    TEST(pmbase_moves_the_acpi_block),
	    TEST(rcba_places_the_chipset_registers),
	    TEST(description_names_every_function),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
