/*
 * A hostile driver of the AHCI controller: random registers, command lists, tables, FISes and packets, mixed with time and
 * resets. The sanitizers find what is wrong; the program checks that after a reset a sane driver can read the disk.
 * Arguments: iterations (default 100000), seed (default 1), and "real" for the real clock, where I/O threads end the
 * requests. Under the deterministic clock the same arguments give the same run.
 */
#include "ahci_fixture.h"
#include "device/disk/cdrom.h"
#include "random_source.h"

#define SECTORS 2048u

static char disc[64]; /* the CD's image, by a descriptor */

static uint64_t some_memory(void)
{
	switch (below(16)) {
	case 0:
		return any();
	case 1:
		return (8u << 20) - below(4096); /* over the end of memory */
	case 2:
		return 0xa0000 - below(8192); /* over the hole */
	case 3:
		return LISTS + below(0x20000); /* the controller's own structures */
	default:
		return DATA + below(0x100000);
	}
}

/* A few ranges to trim, where data is fetched from. */
static void some_ranges(void)
{
	uint64_t ranges[8];

	for (unsigned i = 0; i < 8; i++)
		ranges[i] = below(8) ? below(SECTORS) | below(16) << 48 : any();
	memset(memory(DATA), 0, 4096);
	memcpy(memory(DATA), ranges, sizeof(ranges));
}

static void some_fis(uint8_t fis[20], unsigned slot)
{
	static const uint8_t codes[] = {0x06, 0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x34, 0x35,
	                                0x39, 0x3d, 0x40, 0x42, 0x47, 0x60, 0x61, 0x60, 0x61,
	                                0x90, 0xa0, 0xa0, 0xa0, 0xa1, 0xb0, 0xc4, 0xc5, 0xc6,
	                                0xc8, 0xca, 0xce, 0xe5, 0xe7, 0xea, 0xec, 0xef, 0x08};
	uint8_t code = below(16) ? codes[below(sizeof(codes))] : (uint8_t)any();
	bool queued = code == 0x60 || code == 0x61;

	make_fis(fis, (struct ata_command){.code = code, .lba = below(8) ? below(SECTORS + 8) : any(),
		.features = (uint16_t)(below(4) ? below(queued ? 64 : 4) : any()),
		.count = (uint16_t)(queued && below(16) ? slot << 3 : below(4) ? below(64) : any())});
	if (code == 0x2f || code == 0x47) {
		static const uint8_t logs[] = {0x00, 0x03, 0x07, 0x10};

		memset(fis + 4, 0, 10);
		fis[4] = below(8) ? logs[below(4)] : (uint8_t)any();
		fis[12] = 1;
	}
	if (code == 0x06) {
		fis[3] = 1;
		fis[12] = (uint8_t)(below(9) + 1);
		fis[13] = 0;
		some_ranges();
	}
	if (code == 0xef) {
		static const uint8_t features[] = {0x02, 0x82, 0xaa, 0x55, 0x03, 0x66};

		fis[3] = features[below(6)];
	}
	if (code == 0xb0) {
		fis[3] = 0xd0 + below(12);
		fis[5] = 0x4f;
		fis[6] = 0xc2;
	}
	for (unsigned changes = below(8) ? 0 : 4; changes; changes--)
		fis[below(20)] = (uint8_t)any();
}

static void some_packet(uint8_t packet[16])
{
	static const uint8_t codes[] = {0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x42, 0x43,
	                                0x46, 0x4a, 0x51, 0x52, 0x5a, 0xa8, 0xad, 0xbb, 0xbd, 0xbe};

	memset(packet, 0, 16);
	packet[0] = codes[below(sizeof(codes))];
	for (unsigned i = 1; i < 12; i++)
		packet[i] = (uint8_t)(below(3) ? below(3) : any());
	if (below(2)) /* blocks that exist, some of them */
		memset(packet + 2, 0, 3);
	if (below(4) == 0) {
		packet[0] = (uint8_t)any();
		packet[2] = 0x2a;
	}
}

/* Mostly the port is brought back to work, as a driver does. */
static void mend(unsigned port)
{
	if (below(8) == 0)
		return;
	if (config_get(0x04) != 0x06 && below(2))
		config_set(0x04, 0x06);
	if (port_get(port, PX_SCTL) & 0xf)
		port_set(port, PX_SCTL, 0);
	if (port_get(port, PX_IS) & 0x78000000 || !(port_get(port, PX_CMD) & 1) ||
	    port_get(port, PX_TFD) & 1 || port_get(port, PX_CLB) != list_of(port) || port_get(port, PX_CLBU))
		recover(port);
	if (below(4) == 0 && machine->config.clock == ENGINE_CLOCK_DETERMINISTIC)
		pass(machine, 200000);
}

static void some_command(void)
{
	unsigned port = (unsigned)below(3), slot = (unsigned)below(32);
	struct prd prd[12];
	uint8_t fis[20], packet[16];
	unsigned count = (unsigned)below(11);
	bool trims; /* a TRIM fetches its ranges where some_ranges put them */

	mend(port);
	some_fis(fis, slot);
	trims = fis[2] == 0x06;
	for (unsigned i = 0; i < count; i++)
		prd[i] = (struct prd){trims && i == 0 ? DATA : some_memory(),
		                      (uint32_t)(below(4) ? (below(64) + 1) * 512 : below(0x400000) + 1)};
	prd[count].size = 0;
	some_packet(packet);
	fill_slot(port, slot, fis, packet, (uint32_t)(below(8) ? HEADER_ATAPI : any()), prd);
	if (below(32) == 0)
		((uint32_t *)memory(list_of(port) + slot * 32))[0] = (uint32_t)any();
	if (below(64) == 0)
		((uint32_t *)memory(list_of(port) + slot * 32))[2] = (uint32_t)some_memory();
	if (fis[2] == 0x60 || fis[2] == 0x61)
		port_set(port, PX_SACT, 1u << slot);
	port_set(port, PX_CI, 1u << slot | (below(8) ? 0 : (uint32_t)any()));
}

/* Somebody changes the CD, or takes it away; under the deterministic clock nothing that was begun ends by itself. */
static void change_disc(void)
{
	if (machine->config.clock == ENGINE_CLOCK_DETERMINISTIC)
		pass(machine, 1000000);
	cdrom_change(machine, CDROM_ONLY, below(3) ? disc : NULL, "raw", below(2));
}

static void step(void)
{
	unsigned port = (unsigned)below(7);

	switch (below(16)) {
	case 0 ... 8:
		some_command();
		break;
	case 9:
		if (port < 3)
			recover(port);
		break;
	case 10:
		load(machine, ABAR + below(0x480), 1u << below(4));
		break;
	case 11:
		if (below(4) == 0)
			store(machine, ABAR + below(0x480), 1u << below(4),
			      below(2) ? any() : UINT64_C(1) << below(64));
		else
			port_set(port, (unsigned)below(32) * 4, below(2) ? (uint32_t)any() : 1u << below(32));
		break;
	case 12:
		port_set(port, PX_SCTL, (uint32_t)below(2));
		break;
	case 13:
		if (below(8) == 0)
			config_set(0x04, below(4) ? 0x06 : (uint32_t)any());
		break;
	case 14:
		if (machine->config.clock == ENGINE_CLOCK_REAL)
			break;
		pass(machine, below(1000000));
		break;
	default:
		if (below(64) == 0)
			hba_set(GHC, (uint32_t)below(4));
		else if (below(16) == 0)
			change_disc();
		break;
	}
	fake_vm.msi_count = 0;
}

static void check_usable(const uint8_t *content)
{
	uint8_t fis[20];

	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	enable_controller();
	for (unsigned port = 0; port < 3; port++)
		start_port(port);
	make_fis(fis, (struct ata_command){.code = 0x25, .count = 1, .lba = 3});
	fill_slot(2, 0, fis, NULL, 0, (struct prd[]){{DATA, 512}, {0}});
	memset(memory(DATA), 0, 512);
	port_set(2, PX_CI, 1);
	for (unsigned i = 0; i < 5000 && port_get(2, PX_CI); i++) {
		if (machine->config.clock == ENGINE_CLOCK_REAL)
			usleep(1000);
		else
			pass(machine, 1000000);
	}
	if (port_get(2, PX_CI) || memcmp(memory(DATA), content + 3 * 512, 512)) {
		fprintf(stderr, "the disk cannot be read after a reset\n");
		abort();
	}
}

/* An image without a name. */
static void make_image(char path[64], const uint8_t *content)
{
	int fd;

	strcpy(path, "/tmp/nestor-fuzz-XXXXXX");
	fd = mkstemp(path);
	if (fd < 0 || write(fd, content, SECTORS * 512) != SECTORS * 512)
		abort();
	close(fd);
}

int main(int argc, char **argv)
{
	uint64_t iterations = argc > 1 ? strtoull(argv[1], NULL, 0) : 100000;
	struct disk_config disks[] = {{.format = "raw", .interface = DISK_AHCI},
		{.format = "raw", .interface = DISK_AHCI, .cdrom = true, .read_only = true},
		{.format = "raw", .interface = DISK_AHCI, .read_only = true}};
	static uint8_t content[SECTORS * 512];
	struct machine_config config = fixture_config("null");
	char path[3][64];

	seed_from(argc, argv, 2);
	for (unsigned i = 0; i < sizeof(content); i++)
		content[i] = (uint8_t)(i * 13 + i / 512);
	for (unsigned i = 0; i < 3; i++) {
		make_image(path[i], content);
		disks[i].file = path[i];
		config.disk[config.disk_count++] = disks[i];
	}
	if (argc > 3)
		config.clock = ENGINE_CLOCK_REAL;
	machine = fixture_create_from(&config);
	snprintf(disc, sizeof(disc), "/proc/self/fd/%d", open(path[1], O_RDONLY));
	for (unsigned i = 0; i < 3; i++)
		unlink(path[i]);
	for (uint64_t i = 0; i < iterations; i++) {
		if (i % 1024 == 0)
			check_usable(content);
		step();
	}
	check_usable(content);
	machine_destroy(machine);
	printf("%llu steps\n", (unsigned long long)iterations);
	return 0;
}
