/*
 * Random port and memory accesses to every device, mixed with configuration space (BARs land on anything), interrupts
 * of PCI functions, time, acknowledges, EOIs and resets. Build with
 * the sanitizers, which find what is wrong; the program itself checks only that the machine stays usable.
 * gcc -std=gnu17 -g -O1 -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -Itests/unit -o /tmp/fuzz_devices \
 *   tests/fuzz/fuzz_devices.c src/device/[a-z]*.c src/util/error.c -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/fuzz_devices 1000000 1
 * Arguments: iterations (default 200000), seed (default 1). The same arguments give the same run.
 */
#include "machine_fixture.h"
#include "random_source.h"

/* An address in or a little beside what a device claims. */
static uint64_t some_address(const struct bus *bus)
{
	const struct bus_range *range = &bus->range[below(bus->count)];

	return range->start + below(range->size + 4) - (below(16) == 0 ? 2 : 0);
}

/* Values with few bits, all bits, or a small number, as registers like them. */
static uint64_t some_value(void)
{
	switch (below(6)) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX;
	case 2:
		return UINT64_C(1) << below(64);
	case 3:
		return below(256);
	case 4:
		return below(65536);
	default:
		return any();
	}
}

/* ---- PCI functions that do nothing but have everything ---- */

#define CARDS 4

static struct pci_function card[CARDS];
static uint8_t card_memory[CARDS][32768] __attribute__((aligned(4096)));

static uint64_t card_read(void *state, uint64_t offset, unsigned size)
{
	return offset;
}

static void card_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_function *function = state;

	pci_send_msi(function);
	pci_send_msix(function, (unsigned)value & 127);
	pci_set_intx(function, value & 1);
}

static const struct bus_ops card_ops = {8, card_read, card_write};

static void card_reset(void *state)
{
	pci_reset(state);
}

static void add_cards(struct machine *machine)
{
	const struct pci_identity identity = {
	    .vendor = 0x1234, .device = 1, .class_code = 0xff0000, .interrupt_pin = 1};

	for (unsigned i = 0; i < CARDS; i++) {
		pci_init(&card[i], "card", &card[i], &identity);
		pci_bar_io(&card[i], 0, 4u << i, &card_ops);
		pci_bar_memory(&card[i], 1, 16u << (4 * i), false, &card_ops);
		pci_bar_memory(&card[i], 2, 4096u << (6 * i), true, &card_ops);
		pci_add_msi(&card[i]);
		pci_add_msix(&card[i], 1 + 21 * i, 4);
		pci_bar_ram(&card[i], 5, 16384, card_memory[i], false);
		pci_bar_ram(&card[i], PCI_BARS, 16384, card_memory[i] + 16384, true);
		pci_add_express(&card[i]);
		machine_lock(machine);
		if (pci_add(machine, &card[i], PCI_SLOT_ANY, 0) ||
		    machine_add_device(machine, "card", &card[i], card_reset, NULL))
			abort();
		machine_unlock(machine);
	}
}

/* An address where something is, or beside it: what a hostile guest puts into a BAR. */
static uint32_t some_bar(struct machine *machine)
{
	switch (below(6)) {
	case 0:
		return (uint32_t)some_address(&machine->mmio);
	case 1:
		return (uint32_t)some_address(&machine->pio);
	case 2:
		return (uint32_t)below(machine->config.memory_size);
	case 3:
		return 0xd0000000u + ((uint32_t)below(64) << 12);
	default:
		return (uint32_t)some_value();
	}
}

static void configure(struct machine *machine)
{
	const struct pci_host *host = machine->pci;
	unsigned slot = (unsigned)below(PCI_SLOTS);
	unsigned size = 1u << below(3);
	unsigned offset = (unsigned)below(below(8) ? 256 : 4096) & ~(size - 1);
	uint32_t value = below(2) ? some_bar(machine) : (uint32_t)some_value();

	while (!host->function[slot][0])
		slot = (slot + 1) % PCI_SLOTS;
	/* Mostly what decides where things are. */
	if (below(2))
		offset = 4 + 4 * (unsigned)below(9);
	if (offset == 4 && below(2))
		value |= 7;
	if (host->ecam != PCI_NOWHERE && below(2)) {
		store(machine, host->ecam + (slot << 15) + offset, size, value);
		load(machine, host->ecam + (slot << 15) + offset, size);
	} else {
		out(machine, 0xcf8, 4, 0x80000000 | slot << 11 | (offset & 0xfc));
		out(machine, (uint16_t)(0xcfc + (offset & 3)), size, value);
		in(machine, (uint16_t)(0xcfc + (offset & 3)), size);
	}
}

/* What a BAR says it occupies is its own on the bus; nothing else may change under it. */
static void check_bars(struct machine *machine)
{
	const struct pci_host *host = machine->pci;

	for (unsigned i = 0; i < CARDS; i++)
		for (unsigned index = 0; index <= PCI_BARS; index++) {
			const struct pci_bar *bar = &card[i].bar[index];

			if (!bar->size || bar->mapped == PCI_NOWHERE)
				continue;
			if (bar->mapped != pci_bar_address(&card[i], index) ||
			    (!bar->host &&
			     bus_find(bar->io ? &machine->pio : &machine->mmio, bar->mapped)->ops !=
			         bar->ops) ||
			    (bar->host &&
			     machine_memory(machine, GPA(bar->mapped), bar->size) != bar->host)) {
				fprintf(stderr, "%s: BAR %u is not where it says\n",
				        host->function[card[i].slot][0]->name, index);
				abort();
			}
		}
}

static void touch_memory(struct machine *machine)
{
	uint64_t gpa = below(machine->config.memory_size - 8) & ~UINT64_C(7);
	uint64_t value = below(4) ? __builtin_bswap64(below(machine->config.memory_size)) : any();
	void *host = machine_memory(machine, GPA(gpa), 8);

	if (host)
		memcpy(host, &value, 8);
}

static void step(struct machine *machine)
{
	uint64_t address;
	uint64_t now;

	switch (below(18)) {
	case 0 ... 3:
		in(machine, (uint16_t)some_address(&machine->pio), 1u << below(3));
		break;
	case 4 ... 7:
		out(machine, (uint16_t)some_address(&machine->pio), 1u << below(3), (uint32_t)some_value());
		break;
	case 8 ... 9:
		load(machine, some_address(&machine->mmio), 1u << below(4));
		break;
	case 10 ... 11:
		address = some_address(&machine->mmio);
		if (below(2))
			address &= ~UINT64_C(7);
		store(machine, address, 1u << below(4), some_value());
		break;
	case 12:
		now = machine_now(machine);
		address = machine_next_deadline(machine);
		if (now > UINT64_C(1) << 60)
			break;
		/* To the next deadline, a little on, or far: up to some hours. */
		if (below(3) == 0 && address != UINT64_MAX)
			machine_run_timers(machine, address);
		else
			machine_run_timers(machine, now + below(UINT64_C(1) << (below(8) ? 24 : 44)));
		break;
	case 13:
		if (acknowledge(machine) >= 0 && below(2))
			out(machine, below(2) ? 0x20 : 0xa0, 1, 0x20);
		break;
	case 14:
		machine->host.eoi(machine, (uint8_t)any());
		touch_memory(machine);
		break;
	case 15:
		configure(machine);
		break;
	case 16:
		machine_lock(machine);
		card_write(&card[below(CARDS)], 0, 4, any());
		machine_unlock(machine);
		break;
	default:
		if (below(512) == 0) {
			machine_lock(machine);
			machine_reset_devices(machine);
			machine_unlock(machine);
			if (below(4))
				pci_setup(machine);
		}
		break;
	}
	fake_vm.msi_count = 0;
}

/* After all that, a reset must bring back working interrupts and time. */
static void check_usable(struct machine *machine)
{
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	init_pics(machine, 1, 1);
	out(machine, 0x21, 1, 0xfe); /* only IRQ 0 */
	out(machine, 0x43, 1, 0x30);
	out(machine, 0x40, 1, 0x00);
	out(machine, 0x40, 1, 0x10);
	pass(machine, 10000000);
	if (acknowledge(machine) != 0x20) {
		fprintf(stderr, "no timer interrupt after a reset\n");
		abort();
	}
}

int main(int argc, char **argv)
{
	uint64_t iterations = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
	static const char *const optional[] = {"edu", "pc-testdev", "pvpanic-pci"}; /* pvpanic's port would talk */
	struct machine_config config = fixture_config("null");
	struct machine *machine;

	seed_from(argc, argv, 2);
	for (size_t i = 0; i < sizeof(optional) / sizeof(optional[0]); i++)
		config.device[config.device_count++] = optional[i];
	machine = fixture_create_from(&config);
	add_cards(machine);
	for (uint64_t i = 0; i < iterations; i++) {
		step(machine);
		if (i % 64 == 0)
			check_bars(machine);
		if (i % 65536 == 65535)
			check_usable(machine);
	}
	check_usable(machine);
	machine_destroy(machine);
	printf("%llu accesses\n", (unsigned long long)iterations);
	return 0;
}
