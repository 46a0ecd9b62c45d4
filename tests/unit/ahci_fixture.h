/* A machine with drives on its AHCI controller, and a driver that polls, as a firmware's does. Over machine_fixture.h. */
#ifndef NESTOR_TESTS_AHCI_FIXTURE_H
#define NESTOR_TESTS_AHCI_FIXTURE_H

#include <fcntl.h>
#include <unistd.h>

#include "machine_fixture.h"

#define ABAR        0xe0000000u
#define CONFIG(reg) (0x80000000u | 0x1fu << 11 | 2u << 8 | ((reg) & 0xfc))

/* Guest memory. */
#define LISTS  0x100000u /* a port's command list, and its FIS area 400h behind, every 1000h */
#define TABLES 0x110000u /* a slot's command table every 1000h */
#define DATA   0x200000u

/* Registers. */
#define CAP  0x00
#define GHC  0x04
#define IS   0x08
#define PI   0x0c
#define VS   0x10
#define PORT(n)  (0x100 + (n) * 0x80)
#define PX_CLB   0x00
#define PX_CLBU  0x04
#define PX_FB    0x08
#define PX_FBU   0x0c
#define PX_IS    0x10
#define PX_IE    0x14
#define PX_CMD   0x18
#define PX_TFD   0x20
#define PX_SIG   0x24
#define PX_SSTS  0x28
#define PX_SCTL  0x2c
#define PX_SERR  0x30
#define PX_SACT  0x34
#define PX_CI    0x38

static struct machine *machine;

static inline uint32_t config_get(unsigned reg)
{
	out(machine, 0xcf8, 4, CONFIG(reg));
	return in(machine, 0xcfc, 4);
}

static inline void config_set(unsigned reg, uint32_t value)
{
	out(machine, 0xcf8, 4, CONFIG(reg));
	out(machine, 0xcfc, 4, value);
}

static inline uint32_t hba_get(unsigned reg)
{
	return (uint32_t)load(machine, ABAR + reg, 4);
}

static inline void hba_set(unsigned reg, uint32_t value)
{
	store(machine, ABAR + reg, 4, value);
}

static inline uint32_t port_get(unsigned port, unsigned reg)
{
	return hba_get(PORT(port) + reg);
}

static inline void port_set(unsigned port, unsigned reg, uint32_t value)
{
	hba_set(PORT(port) + reg, value);
}

static inline uint8_t *memory(uint64_t gpa)
{
	return machine_memory(machine, GPA(gpa), 1);
}

static inline uint64_t list_of(unsigned port)
{
	return LISTS + port * 0x1000u;
}

/* What the controller received from the drive: 40h D2H, 20h PIO setup, 58h set device bits. */
static inline uint8_t *received(unsigned port, unsigned place)
{
	return memory(list_of(port) + 0x400 + place);
}

static inline void enable_controller(void)
{
	config_set(0x24, ABAR);
	config_set(0x04, 0x06); /* memory, master */
}

static inline void start_port(unsigned port)
{
	port_set(port, PX_CLB, (uint32_t)list_of(port));
	port_set(port, PX_FB, (uint32_t)list_of(port) + 0x400);
	port_set(port, PX_SERR, UINT32_MAX);
	port_set(port, PX_IS, UINT32_MAX);
	port_set(port, PX_CMD, port_get(port, PX_CMD) | 1u << 4);
	port_set(port, PX_CMD, port_get(port, PX_CMD) | 1u);
}

static inline void stop_port(unsigned port)
{
	port_set(port, PX_CMD, port_get(port, PX_CMD) & ~1u);
}

struct prd {
	uint64_t gpa;
	uint32_t size;
};

#define HEADER_WRITE (1u << 6)
#define HEADER_ATAPI (1u << 5)

/* Fills a slot's header and table. prd: until size 0. */
static inline void fill_slot(unsigned port, unsigned slot, const uint8_t fis[20], const uint8_t packet[16],
                             uint32_t flags, const struct prd *prd)
{
	uint32_t *header = (uint32_t *)memory(list_of(port) + slot * 32);
	uint8_t *table = memory(TABLES + slot * 0x1000);
	uint32_t count = 0;

	memset(table, 0, 0x80);
	memcpy(table, fis, 20);
	if (packet)
		memcpy(table + 0x40, packet, 16);
	for (; prd && prd[count].size; count++) {
		uint32_t entry[4] = {(uint32_t)prd[count].gpa, (uint32_t)(prd[count].gpa >> 32), 0,
		                     prd[count].size - 1};

		memcpy(table + 0x80 + count * 16, entry, 16);
	}
	header[0] = 5 | flags | count << 16;
	header[1] = 0xdeadbeef;
	header[2] = TABLES + slot * 0x1000;
	header[3] = 0;
}

struct ata_command {
	uint8_t code;
	uint16_t features, count;
	uint64_t lba;
	uint8_t device;
};

static inline void make_fis(uint8_t fis[20], struct ata_command command)
{
	memset(fis, 0, 20);
	fis[0] = 0x27;
	fis[1] = 0x80;
	fis[2] = command.code;
	fis[3] = (uint8_t)command.features;
	fis[11] = (uint8_t)(command.features >> 8);
	fis[7] = command.device ? command.device : 0x40;
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (uint8_t)(command.lba >> (8 * i));
		fis[8 + i] = (uint8_t)(command.lba >> (8 * (i + 3)));
	}
	fis[12] = (uint8_t)command.count;
	fis[13] = (uint8_t)(command.count >> 8);
}

/* Issues a command in slot 0 and lets time pass until it has ended. Returns the task file: error << 8 | status. */
static inline uint32_t ata(unsigned port, struct ata_command command, uint32_t flags, const struct prd *prd)
{
	uint8_t fis[20];

	make_fis(fis, command);
	fill_slot(port, 0, fis, NULL, flags, prd);
	port_set(port, PX_CI, 1);
	for (unsigned i = 0; i < 600 && port_get(port, PX_TFD) & 0x80; i++)
		pass(machine, 1000000);
	return port_get(port, PX_TFD);
}

static inline uint32_t atapi(unsigned port, const uint8_t packet[16], const struct prd *prd)
{
	uint8_t fis[20];

	make_fis(fis, (struct ata_command){.code = 0xa0, .features = 1});
	fill_slot(port, 0, fis, packet, HEADER_ATAPI, prd);
	port_set(port, PX_CI, 1);
	pass(machine, 10000000);
	return port_get(port, PX_TFD);
}

/* After an error. */
static inline void recover(unsigned port)
{
	stop_port(port);
	port_set(port, PX_SERR, UINT32_MAX);
	port_set(port, PX_IS, UINT32_MAX);
	start_port(port);
}

static inline int make_machine(const struct disk_config *disk, unsigned count)
{
	struct machine_config config = {
	    .memory_size = 8u << 20,
	    .cpu_count = 1,
	    .clock = ENGINE_CLOCK_DETERMINISTIC,
	    .rtc_start = 1767225600,
	    .disk_count = count,
	};
	struct cpu_model model = {.cpu_count = 1};

	memcpy(config.disk, disk, count * sizeof(*disk));
	return machine_create(&machine, &config, &model, &fake_engine);
}

#endif
