/* The AHCI controller, ATA disks and CD drives (Serial ATA AHCI 1.3.1, ATA8-ACS, MMC-5) on images of this test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>

#include <cmocka.h>

#include "ahci_fixture.h"
#include "device/disk/cdrom.h"

#define DISK       0 /* ports */
#define CD         1
#define READ_ONLY  2
#define EMPTY      3
#define SECTORS    8192u
#define CD_BLOCKS  100u

static char folder[64], disk_path[96], cd_path[96];
static uint8_t disk_content[SECTORS * 512], cd_content[CD_BLOCKS * 2048];

static void write_image(const char *path, const void *content, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, size), size);
	close(fd);
}

static int set_up(void **state)
{
	struct disk_config disks[] = {
	    {.file = disk_path, .format = "raw", .interface = DISK_AHCI, .serial = "S-1234"},
	    {.file = cd_path, .format = "raw", .interface = DISK_AHCI, .cdrom = true, .read_only = true},
	    {.file = cd_path, .format = "raw", .interface = DISK_AHCI, .read_only = true},
	};

	strcpy(folder, "/tmp/nestor-test-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(disk_path, sizeof(disk_path), "%s/disk", folder);
	snprintf(cd_path, sizeof(cd_path), "%s/cd", folder);
	for (unsigned i = 0; i < sizeof(disk_content); i++)
		disk_content[i] = (uint8_t)(i / 512 * 7 + i % 251);
	for (unsigned i = 0; i < sizeof(cd_content); i++)
		cd_content[i] = (uint8_t)(i / 2048 * 3 + i % 241);
	write_image(disk_path, disk_content, sizeof(disk_content));
	write_image(cd_path, cd_content, sizeof(cd_content));
	if (make_machine(disks, 3))
		fail_msg("%s", error_text());
	enable_controller();
	for (unsigned port = 0; port < 4; port++)
		start_port(port);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	machine_destroy(machine);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) != 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#define GOOD 0x50u

static uint32_t read_dma(uint64_t lba, uint16_t count, const struct prd *prd)
{
	return ata(DISK, (struct ata_command){.code = 0x25, .lba = lba, .count = count}, 0, prd);
}

static uint16_t word_at(uint64_t gpa, unsigned index)
{
	return (uint16_t)(memory(gpa)[2 * index] | memory(gpa)[2 * index + 1] << 8);
}

/* ---- the controller ---- */

static void describes_itself(void **state)
{
	assert_int_equal(config_get(0x00), 0x29228086);
	assert_int_equal(config_get(0x08) >> 8, 0x010601);
	assert_int_equal(hba_get(PI), 0x3f);
	assert_int_equal(hba_get(VS), 0x00010300);
	assert_int_equal(hba_get(CAP) & 0x1f, 5);          /* six ports */
	assert_int_equal(hba_get(CAP) >> 8 & 0x1f, 31);    /* 32 slots */
	assert_int_equal(hba_get(CAP) >> 30, 3);           /* 64-bit addresses, NCQ */
	assert_int_equal(hba_get(GHC), 0x80000000);
	hba_set(GHC, 0);
	assert_int_equal(hba_get(GHC), 0x80000000);
	hba_set(CAP, 0);
	assert_int_equal(hba_get(CAP) >> 30, 3);
	assert_int_equal(load(machine, ABAR + VS + 2, 1), 0x01); /* narrow reads */
	assert_int_equal(hba_get(PORT(6)), 0);             /* no seventh port */
}

static void links_and_signatures(void **state)
{
	assert_int_equal(port_get(DISK, PX_SSTS), 0x123);
	assert_int_equal(port_get(DISK, PX_SIG), 0x00000101);
	assert_int_equal(port_get(DISK, PX_TFD), 0x0150);
	assert_int_equal(port_get(CD, PX_SIG), 0xeb140101);
	assert_int_equal(port_get(EMPTY, PX_SSTS), 0);
	assert_int_equal(port_get(EMPTY, PX_SIG), 0xffffffff);
	assert_int_equal(port_get(EMPTY, PX_TFD), 0x7f);
	port_set(EMPTY, PX_CI, 1);
	pass(machine, 1000000);
	assert_int_equal(port_get(EMPTY, PX_CI), 1); /* nobody takes it */
	stop_port(EMPTY);
	assert_int_equal(port_get(EMPTY, PX_CI), 0);
}

/* "Port Reset": the link goes down, comes up, and the drive sends its signature. */
static void a_comreset(void **state)
{
	port_set(DISK, PX_IE, 1u << 6);
	stop_port(DISK);
	memset(received(DISK, 0x40), 0, 20);
	port_set(DISK, PX_SCTL, 0x301);
	assert_int_equal(port_get(DISK, PX_SSTS), 0);
	assert_int_equal(port_get(DISK, PX_TFD), 0x7f);
	port_set(DISK, PX_SCTL, 0x300);
	assert_int_equal(port_get(DISK, PX_SSTS), 0x123);
	assert_int_equal(received(DISK, 0x40)[0], 0x34);
	assert_int_equal(received(DISK, 0x40)[12], 1);
	assert_int_equal(port_get(DISK, PX_SERR) >> 26 & 1, 1); /* DIAG.X, which PCS follows */
	assert_int_equal(port_get(DISK, PX_IS) >> 6 & 1, 1);
	port_set(DISK, PX_IS, UINT32_MAX);
	assert_int_equal(port_get(DISK, PX_IS) >> 6 & 1, 1);
	port_set(DISK, PX_SERR, UINT32_MAX);
	assert_int_equal(port_get(DISK, PX_IS), 0);
}

static void a_software_reset(void **state)
{
	uint8_t fis[20] = {0x27, 0};

	fis[15] = 0x04; /* SRST */
	memset(received(CD, 0x40), 0, 20);
	fill_slot(CD, 0, fis, NULL, 1u << 10 | 1u << 8, NULL);
	port_set(CD, PX_CI, 1);
	assert_int_equal(port_get(CD, PX_CI), 0);
	fis[15] = 0;
	fill_slot(CD, 1, fis, NULL, 0, NULL);
	port_set(CD, PX_CI, 2);
	assert_int_equal(port_get(CD, PX_CI), 0);
	assert_int_equal(received(CD, 0x40)[0], 0x34);
	assert_int_equal(received(CD, 0x40)[5] | received(CD, 0x40)[6] << 8, 0xeb14);
}

static void an_hba_reset(void **state)
{
	port_set(DISK, PX_IE, 0xff);
	hba_set(GHC, 3);
	assert_int_equal(hba_get(GHC), 0x80000000);
	assert_int_equal(port_get(DISK, PX_IE), 0);
	assert_int_equal(port_get(DISK, PX_CMD) & 0xc011, 0);
	assert_int_equal(port_get(DISK, PX_CLB), list_of(DISK)); /* stays */
	assert_int_equal(port_get(DISK, PX_SIG), 0x00000101);
	start_port(DISK);
	assert_int_equal(read_dma(0, 1, (struct prd[]){{DATA, 512}, {0}}), GOOD);
}

static void nothing_without_bus_master(void **state)
{
	config_set(0x04, 0x02);
	uint8_t fis[20];

	make_fis(fis, (struct ata_command){.code = 0x25, .count = 1});
	fill_slot(DISK, 0, fis, NULL, 0, (struct prd[]){{DATA, 512}, {0}});
	memset(memory(DATA), 0, 512);
	port_set(DISK, PX_CI, 1);
	pass(machine, 10000000);
	assert_int_equal(port_get(DISK, PX_CI), 1);
	config_set(0x04, 0x06);
	pass(machine, 10000000);
	assert_int_equal(port_get(DISK, PX_CI), 0);
	assert_memory_equal(memory(DATA), disk_content, 512);
}

/* ---- interrupts ---- */

static void interrupts_by_intx(void **state)
{
	port_set(DISK, PX_IE, 1);
	hba_set(GHC, 2);
	assert_int_equal(config_get(0x04) >> 19 & 1, 0);
	assert_int_equal(read_dma(0, 1, (struct prd[]){{DATA, 512}, {0}}), GOOD);
	assert_int_equal(hba_get(IS), 1u << DISK);
	assert_int_equal(config_get(0x04) >> 19 & 1, 1); /* PCI status: interrupt */
	hba_set(IS, 1);
	assert_int_equal(hba_get(IS), 1); /* the port still has something to tell */
	port_set(DISK, PX_IS, 1);
	hba_set(IS, 1);
	assert_int_equal(hba_get(IS), 0);
	assert_int_equal(config_get(0x04) >> 19 & 1, 0);
}

static void interrupts_by_message(void **state)
{
	unsigned msi = config_get(0x34) & 0xff;

	while (msi && (config_get(msi) & 0xff) != 0x05)
		msi = config_get(msi) >> 8 & 0xff;
	assert_true(msi);
	config_set(msi + 4, 0xfee00000);
	config_set(msi + 12, 0x4031);
	config_set(msi, config_get(msi) | 1u << 16);
	port_set(DISK, PX_IE, 1);
	assert_int_equal(read_dma(0, 1, (struct prd[]){{DATA, 512}, {0}}), GOOD);
	assert_int_equal(fake_vm.msi_count, 0); /* GHC.IE is 0 */
	port_set(DISK, PX_IS, 1);
	hba_set(IS, 1);
	hba_set(GHC, 2);
	assert_int_equal(read_dma(0, 1, (struct prd[]){{DATA, 512}, {0}}), GOOD);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0], 0x4031);
	/* A message is not lost where the guest acknowledges before it has looked at everything. */
	hba_set(IS, 1);
	assert_int_equal(fake_vm.msi_count, 2);
	port_set(DISK, PX_IS, 1);
	hba_set(IS, 1);
	assert_int_equal(fake_vm.msi_count, 2);
	assert_int_equal(hba_get(IS), 0);
}

/* ---- commands ---- */

static void identifies_a_disk(void **state)
{
	uint8_t sum = 0;

	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xec}, 0, (struct prd[]){{DATA, 512}, {0}}),
	                 GOOD);
	assert_int_equal(port_get(DISK, PX_CI), 0);
	assert_int_equal(port_get(DISK, PX_IS), 2); /* PIO setup, and no D2H */
	assert_int_equal(received(DISK, 0x20)[0], 0x5f);
	assert_int_equal(received(DISK, 0x20)[1], 0x60);
	assert_int_equal(received(DISK, 0x20)[15], 0x50);
	assert_int_equal(received(DISK, 0x20)[16] | received(DISK, 0x20)[17] << 8, 512);
	assert_int_equal(word_at(DATA, 0), 0x0040);
	assert_int_equal(word_at(DATA, 10), 'S' << 8 | '-'); /* serial */
	assert_int_equal(word_at(DATA, 12), '3' << 8 | '4');
	assert_int_equal(word_at(DATA, 13), ' ' << 8 | ' ');
	assert_int_equal(word_at(DATA, 27), 'N' << 8 | 'e');
	assert_int_equal(word_at(DATA, 60) | word_at(DATA, 61) << 16, SECTORS);
	assert_int_equal(word_at(DATA, 100) | word_at(DATA, 101) << 16, SECTORS);
	assert_int_equal(word_at(DATA, 75), 31);
	assert_int_equal(word_at(DATA, 76) >> 8 & 1, 1); /* NCQ */
	assert_int_equal(word_at(DATA, 83) >> 10 & 1, 1); /* 48-bit addresses */
	assert_int_equal(word_at(DATA, 169), 1); /* TRIM */
	assert_int_equal(word_at(DATA, 108) >> 12, 5); /* NAA of the world wide name */
	for (unsigned i = 0; i < 512; i++)
		sum = (uint8_t)(sum + memory(DATA)[i]);
	assert_int_equal(sum, 0);
	assert_int_equal(ata(READ_ONLY, (struct ata_command){.code = 0xec}, 0, (struct prd[]){{DATA, 512}, {0}}), GOOD);
	assert_int_equal(word_at(DATA, 169), 0);
}

static void reads_and_writes_by_dma(void **state)
{
	struct prd scattered[] = {{DATA + 2, 10}, {DATA + 0x10000, 500}, {DATA + 0x20000, 1024}, {DATA + 0x30002, 514}, {0}};
	uint8_t together[2048];
	uint64_t at = 0;

	assert_int_equal(read_dma(100, 4, scattered), GOOD);
	assert_int_equal(port_get(DISK, PX_IS), 1);
	assert_int_equal(received(DISK, 0x40)[0], 0x34);
	assert_int_equal(received(DISK, 0x40)[1], 0x40);
	assert_int_equal(received(DISK, 0x40)[2], 0x50);
	assert_int_equal(((uint32_t *)memory(list_of(DISK)))[1], 2048); /* PRDBC */
	for (struct prd *prd = scattered; prd->size; at += prd->size, prd++)
		memcpy(together + at, memory(prd->gpa), prd->size);
	assert_memory_equal(together, disk_content + 100 * 512, 2048);

	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x35, .lba = SECTORS - 4, .count = 4},
	                     HEADER_WRITE, scattered),
	                 GOOD);
	memset(memory(DATA + 0x100000), 0, 2048);
	assert_int_equal(read_dma(SECTORS - 4, 4, (struct prd[]){{DATA + 0x100000, 4096}, {0}}), GOOD);
	assert_memory_equal(together, memory(DATA + 0x100000), 2048);
}

/* 28-bit and CHS addresses, PIO, READ MULTIPLE, a count of 0. */
static void older_commands(void **state)
{
	struct prd prd[] = {{DATA, 256 * 512}, {0}};

	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x20, .lba = 1000, .count = 0}, 0, prd),
	                 GOOD);
	assert_memory_equal(memory(DATA), disk_content + 1000 * 512, 256 * 512);
	assert_int_equal(port_get(DISK, PX_IS), 2);
	assert_int_equal(received(DISK, 0x20)[0], 0x5f);
	/* Cylinder 3, head 2, sector 5: (3 * 16 + 2) * 63 + 4. */
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xc8, .lba = 0x000305, .device = 0xa2, .count = 1}, 0, prd), GOOD);
	assert_memory_equal(memory(DATA), disk_content + 3154 * 512, 512);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xc6, .count = 8}, 0, NULL), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xc4, .lba = 7, .count = 20}, 0, prd), GOOD);
	assert_memory_equal(memory(DATA), disk_content + 7 * 512, 20 * 512);
	memset(memory(DATA), 0x5a, 1024);
	port_set(DISK, PX_IS, UINT32_MAX);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x30, .lba = 50, .count = 2}, HEADER_WRITE, prd), GOOD);
	assert_int_equal(port_get(DISK, PX_IS), 1);
	memset(memory(DATA), 0, 1024);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x24, .lba = 51, .count = 1}, 0, prd), GOOD);
	assert_int_equal(memory(DATA)[0], 0x5a);
	assert_int_equal(memory(DATA)[512], 0);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x40, .lba = 51, .count = 1}, 0, NULL), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x42, .lba = SECTORS, .count = 1}, 0, NULL),
	                 0x1051);
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xc6, .count = 3}, 0, NULL), 0x0451);
}

static void settings_and_logs(void **state)
{
	struct prd prd[] = {{DATA, 512}, {0}};
	static const uint8_t good_codes[] = {0xe7, 0xea, 0xe0, 0xe1, 0xe2, 0xe3, 0xe6, 0x10, 0x70, 0x91};

	for (unsigned i = 0; i < sizeof(good_codes); i++)
		assert_int_equal(ata(DISK, (struct ata_command){.code = good_codes[i]}, 0, NULL), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xe5}, 0, NULL), GOOD);
	assert_int_equal(received(DISK, 0x40)[12], 0xff); /* active */
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xef, .features = 0x82}, 0, NULL), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xec}, 0, prd), GOOD);
	assert_int_equal(word_at(DATA, 85) >> 5 & 1, 0); /* the write cache is off */
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x35, .lba = 1, .count = 1}, HEADER_WRITE, prd), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xef, .features = 0x03, .count = 0x42}, 0, NULL), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xec}, 0, prd), GOOD);
	assert_int_equal(word_at(DATA, 88), 0x047f); /* Ultra DMA mode 2 */
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x2f, .lba = 0x00, .count = 1}, 0, prd),
	                 GOOD);
	assert_int_equal(word_at(DATA, 0x10), 1); /* there is a log 10h */
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x2f, .lba = 0x10, .count = 1}, 0, prd),
	                 GOOD);
	assert_int_equal(memory(DATA)[0], 0x80); /* no queued command failed */

	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xb0, .features = 0xda, .lba = 0xc24f00}, 0, NULL), GOOD);
	assert_int_equal(received(DISK, 0x40)[5] | received(DISK, 0x40)[6] << 8, 0xc24f); /* no threshold exceeded */
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xb0, .features = 0xd0, .lba = 0xc24f00}, 0, prd), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xb0, .features = 0xd9, .lba = 0xc24f00}, 0, NULL), GOOD);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xb0, .features = 0xda, .lba = 0xc24f00}, 0, NULL), 0x0451);
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xff}, 0, NULL), 0x0451);
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xa1}, 0, prd), 0x0451); /* no packet device */
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x90}, 0, NULL), 0x0150);
}

static void trims(void **state)
{
	struct prd prd[] = {{DATA, 512}, {0}};
	uint8_t *entry = memory(DATA);

	memset(entry, 0, 512);
	entry[0] = 10; /* 4 sectors at 10 */
	entry[6] = 4;
	entry[8] = 100; /* 300 sectors at 100 */
	entry[14] = 300 & 0xff;
	entry[15] = 300 >> 8;
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x06, .features = 1, .count = 1}, HEADER_WRITE, prd), GOOD);
	assert_int_equal(read_dma(0, 512, (struct prd[]){{DATA + 0x10000, 512 * 512}, {0}}), GOOD);
	for (unsigned sector = 0; sector < 512; sector++) {
		const uint8_t *data = memory(DATA + 0x10000 + sector * 512);
		bool gone = (sector >= 10 && sector < 14) || (sector >= 100 && sector < 400);

		for (unsigned i = 0; i < 512; i++)
			assert_int_equal(data[i], gone ? 0 : disk_content[sector * 512 + i]);
	}
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x06, .features = 1, .count = 9}, HEADER_WRITE, prd), 0x0451);
	recover(DISK);
	memset(entry, 0xff, 8);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x06, .features = 1, .count = 1}, HEADER_WRITE, prd), 0x1451);
	recover(DISK);
	assert_int_equal(ata(READ_ONLY, (struct ata_command){.code = 0x06, .features = 1, .count = 1}, HEADER_WRITE, prd), 0x0451);
}

/* ---- queued commands ---- */

static void fill_queued(unsigned slot, uint8_t code, uint64_t lba, uint16_t count)
{
	uint8_t fis[20];

	make_fis(fis, (struct ata_command){.code = code, .features = count, .lba = lba, .count = (uint16_t)(slot << 3)});
	fill_slot(DISK, slot, fis, NULL, code == 0x61 ? HEADER_WRITE : 0,
		  (struct prd[]){{DATA + slot * 0x10000, count * 512u}, {0}});
}

static void queues_32_commands(void **state)
{
	for (unsigned slot = 0; slot < 32; slot++)
		fill_queued(slot, slot & 1 ? 0x60 : 0x61, slot * 16, 8);
	for (unsigned slot = 0; slot < 32; slot += 2)
		memset(memory(DATA + slot * 0x10000), (int)slot + 1, 4096);
	port_set(DISK, PX_SACT, UINT32_MAX);
	port_set(DISK, PX_CI, UINT32_MAX);
	assert_int_equal(port_get(DISK, PX_CI), 0); /* the drive has taken them all */
	assert_int_equal(port_get(DISK, PX_SACT), UINT32_MAX);
	assert_int_equal(port_get(DISK, PX_TFD) & 0x89, 0);
	assert_int_equal(received(DISK, 0x40)[1] & 0x40, 0); /* accepted without an interrupt */
	pass(machine, 100000000);
	assert_int_equal(port_get(DISK, PX_SACT), 0);
	assert_int_equal(port_get(DISK, PX_IS), 8);
	assert_int_equal(received(DISK, 0x58)[0], 0xa1);
	assert_int_equal(received(DISK, 0x58)[1], 0x40);
	for (unsigned slot = 1; slot < 32; slot += 2)
		assert_memory_equal(memory(DATA + slot * 0x10000), disk_content + slot * 16 * 512, 4096);
	assert_int_equal(read_dma(30 * 16, 8, (struct prd[]){{DATA, 4096}, {0}}), GOOD);
	assert_int_equal(memory(DATA)[4095], 31);
}

/* "NCQ error": the others are aborted, log 10h says which command failed and why. */
static void a_queued_command_fails(void **state)
{
	fill_queued(4, 0x60, 0, 8);
	fill_queued(5, 0x60, SECTORS - 4, 8);
	fill_queued(6, 0x60, 64, 8);
	port_set(DISK, PX_SACT, 0x70);
	port_set(DISK, PX_CI, 0x70);
	pass(machine, 100000000);
	assert_int_equal(port_get(DISK, PX_IS) & (1u << 30 | 1u << 3), 1u << 30 | 1u << 3);
	assert_int_equal(port_get(DISK, PX_TFD) & 0xff01, 0x1001); /* IDNF */
	assert_int_equal(port_get(DISK, PX_SACT) & 0x20, 0x20);
	recover(DISK);
	assert_int_equal(port_get(DISK, PX_SACT), 0);
	fill_queued(7, 0x60, 0, 8); /* nothing is queued before the log was read */
	port_set(DISK, PX_SACT, 0x80);
	port_set(DISK, PX_CI, 0x80);
	assert_int_equal(port_get(DISK, PX_TFD), 0x0451);
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x2f, .lba = 0x10, .count = 1}, 0,
			     (struct prd[]){{DATA, 512}, {0}}), GOOD);
	assert_int_equal(memory(DATA)[0], 5);
	assert_int_equal(memory(DATA)[3], 0x10);
	assert_int_equal(memory(DATA)[4] | memory(DATA)[5] << 8, SECTORS - 4);
	fill_queued(7, 0x60, 0, 8);
	port_set(DISK, PX_SACT, 0x80);
	port_set(DISK, PX_CI, 0x80);
	pass(machine, 10000000);
	assert_int_equal(port_get(DISK, PX_SACT), 0);
}

/* A queued command whose tag is not its slot, or another kind between queued ones, is aborted. */
static void the_queue_is_of_one_kind(void **state)
{
	uint8_t fis[20];

	fill_queued(4, 0x60, 0, 8);
	make_fis(fis, (struct ata_command){.code = 0x25, .count = 1});
	fill_slot(DISK, 5, fis, NULL, 0, (struct prd[]){{DATA, 512}, {0}});
	port_set(DISK, PX_SACT, 0x10);
	port_set(DISK, PX_CI, 0x30);
	assert_int_equal(port_get(DISK, PX_TFD), 0x0451);
	recover(DISK);
	fill_queued(4, 0x60, 0, 8);
	memory(TABLES + 4 * 0x1000)[12] = 3 << 3;
	port_set(DISK, PX_CI, 0x10);
	assert_int_equal(port_get(DISK, PX_TFD), 0x0451);
}

/* ---- errors ---- */

static void a_bad_address_is_not_found(void **state)
{
	struct prd prd[] = {{DATA, 4096}, {0}};

	assert_int_equal(read_dma(SECTORS - 1, 2, prd), 0x1051);
	assert_int_equal(port_get(DISK, PX_IS) & (1u << 30 | 1), 1u << 30 | 1); /* TFES, and its FIS */
	assert_int_equal(port_get(DISK, PX_CI), 1);   /* stays, and CCS names it */
	assert_int_equal(port_get(DISK, PX_CMD) >> 8 & 31, 0);
	uint8_t fis[20];

	make_fis(fis, (struct ata_command){.code = 0x25, .count = 1});
	fill_slot(DISK, 1, fis, NULL, 0, prd);
	port_set(DISK, PX_CI, 2);
	pass(machine, 10000000);
	assert_int_equal(port_get(DISK, PX_CI), 3); /* nothing goes on */
	recover(DISK);
	assert_int_equal(port_get(DISK, PX_CI), 0);
	assert_int_equal(read_dma(0, 1, prd), GOOD);
	assert_int_equal(read_dma(UINT64_C(0xffffffffffff), 1, prd), 0x1051);
	recover(DISK);
	assert_int_equal(ata(READ_ONLY, (struct ata_command){.code = 0x35, .count = 1}, HEADER_WRITE, prd),
	                 0x0451);
}

static void an_io_error_is_a_task_file_error(void **state)
{
	struct prd prd[] = {{DATA, 4096}, {0}};

	assert_int_equal(truncate(disk_path, 512 * 100), 0);
	assert_int_equal(read_dma(4000, 8, prd), 0x4051); /* UNC */
	recover(DISK);
	fill_queued(3, 0x60, 4000, 8);
	port_set(DISK, PX_SACT, 8);
	port_set(DISK, PX_CI, 8);
	pass(machine, 10000000);
	assert_int_equal(port_get(DISK, PX_TFD) & 0xff01, 0x4001);
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0x2f, .lba = 0x10, .count = 1}, 0, prd),
	                 GOOD);
	assert_int_equal(read_dma(0, 8, prd), GOOD);
}

static void a_short_table_overflows(void **state)
{
	assert_int_equal(read_dma(0, 8, (struct prd[]){{DATA, 4094}, {0}}), 0x0451);
	assert_int_equal(port_get(DISK, PX_IS) >> 24 & 1, 1);
	recover(DISK);
	assert_int_equal(ata(DISK, (struct ata_command){.code = 0xec}, 0, NULL), 0x0451);
	recover(DISK);
	assert_int_equal(read_dma(0, 8, (struct prd[]){{DATA, 4096}, {0}}), GOOD);
}

/* Addresses that are no memory: host bus fatal error, of data, table, list and FIS area. */
static void bad_memory_is_fatal(void **state)
{
	struct prd good[] = {{DATA, 4096}, {0}};
	uint32_t *header = (uint32_t *)memory(list_of(DISK));
	uint8_t fis[20];

	read_dma(0, 8, (struct prd[]){{0x90000000, 4096}, {0}});
	assert_int_equal(port_get(DISK, PX_IS) >> 29 & 1, 1);
	recover(DISK);
	ata(DISK, (struct ata_command){.code = 0x35, .count = 8}, HEADER_WRITE,
	    (struct prd[]){{DATA, 2048}, {~UINT64_C(0) - 4095, 2048}, {0}});
	assert_int_equal(port_get(DISK, PX_IS) >> 29 & 1, 1);
	recover(DISK);
	make_fis(fis, (struct ata_command){.code = 0x25, .count = 8});
	fill_slot(DISK, 0, fis, NULL, 0, good);
	header[3] = 0x1000;
	port_set(DISK, PX_CI, 1);
	assert_int_equal(port_get(DISK, PX_IS) >> 29 & 1, 1);
	recover(DISK);
	port_set(DISK, PX_CLBU, 1);
	port_set(DISK, PX_CI, 1);
	assert_int_equal(port_get(DISK, PX_IS) >> 29 & 1, 1);
	port_set(DISK, PX_CLBU, 0);
	recover(DISK);
	port_set(DISK, PX_FBU, 1);
	assert_int_equal(read_dma(0, 8, good), GOOD); /* the data arrived, its message did not */
	assert_int_equal(port_get(DISK, PX_IS) >> 29 & 1, 1);
	port_set(DISK, PX_FBU, 0);
}

/* No FIS of a type that a controller sends. */
static void a_bad_fis_is_fatal(void **state)
{
	uint8_t fis[20] = {0x34, 0x80, 0x25};

	fill_slot(DISK, 0, fis, NULL, 0, NULL);
	port_set(DISK, PX_CI, 1);
	assert_int_equal(port_get(DISK, PX_IS) >> 27 & 1, 1);
	recover(DISK);
	assert_int_equal(read_dma(0, 8, (struct prd[]){{DATA, 4096}, {0}}), GOOD);
}

/* Nothing of a command arrives after the port was stopped or reset. */
static void a_reset_forgets_commands(void **state)
{
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned slot = 0; slot < 8; slot++)
			fill_queued(slot, 0x60, slot, 8);
		memset(memory(DATA), 0xee, 8 * 0x10000);
		port_set(DISK, PX_SACT, 0xff);
		port_set(DISK, PX_CI, 0xff);
		if (round == 0) {
			stop_port(DISK);
		} else if (round == 1) {
			port_set(DISK, PX_SCTL, 1);
			port_set(DISK, PX_SCTL, 0);
		} else {
			machine_lock(machine);
			machine_reset_devices(machine);
			machine_unlock(machine);
			enable_controller();
		}
		assert_int_equal(port_get(DISK, PX_SACT), 0);
		port_set(DISK, PX_IS, UINT32_MAX);
		pass(machine, 100000000);
		assert_int_equal(port_get(DISK, PX_IS) & ~(1u << 6 | 1u << 22), 0);
		for (unsigned slot = 0; slot < 8; slot++)
			assert_int_equal(memory(DATA + slot * 0x10000)[0], 0xee);
		recover(DISK);
	}
}

/* ---- the CD drive ---- */

static uint32_t packet(const uint8_t *bytes, size_t size, uint32_t room)
{
	uint8_t full[16] = {0};

	memcpy(full, bytes, size);
	memset(memory(DATA), 0, room);
	return atapi(CD, full, (struct prd[]){{DATA, room}, {0}});
}

#define PACKET(room, ...) packet((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), room)

/* key << 16 | code << 8 | qualifier, after an error. */
static uint32_t sense(void)
{
	recover(CD);
	assert_int_equal(PACKET(18, 0x03, 0, 0, 0, 18), GOOD);
	return (uint32_t)memory(DATA)[2] << 16 | memory(DATA)[12] << 8 | memory(DATA)[13];
}

static void ready_cd(void)
{
	assert_int_equal(PACKET(2, 0x00), 0x6051); /* unit attention */
	assert_int_equal(sense(), 0x062900);
	assert_int_equal(PACKET(2, 0x00), GOOD);
}

static void identifies_a_cd_drive(void **state)
{
	struct prd prd[] = {{DATA, 512}, {0}};

	assert_int_equal(ata(CD, (struct ata_command){.code = 0xa1}, 0, prd), GOOD);
	assert_int_equal(word_at(DATA, 0), 0x85c0);
	assert_int_equal(ata(CD, (struct ata_command){.code = 0xec}, 0, prd), 0x0451);
	assert_int_equal(received(CD, 0x40)[5], 0x14); /* with the signature of packet devices */
	assert_int_equal(received(CD, 0x40)[6], 0xeb);
	recover(CD);
	assert_int_equal(ata(CD, (struct ata_command){.code = 0x25, .count = 1}, 0, prd), 0x0451);
	recover(CD);
	assert_int_equal(PACKET(36, 0x12, 0, 0, 0, 36), GOOD); /* also while a unit attention is pending */
	assert_int_equal(memory(DATA)[0], 0x05);
	assert_int_equal(memory(DATA)[1], 0x80);
	assert_memory_equal(memory(DATA) + 8, "Nestor  CD-ROM  ", 16);
	assert_int_equal(received(CD, 0x40)[12] & 7, 3);
	assert_int_equal(received(CD, 0x40)[5], 36);
	assert_int_equal(((uint32_t *)memory(list_of(CD)))[1], 36);
}

static void reads_a_cd(void **state)
{
	ready_cd();
	assert_int_equal(PACKET(8, 0x25), GOOD);
	assert_memory_equal(memory(DATA), "\0\0\0\143\0\0\010\0", 8);
	assert_int_equal(PACKET(8192, 0x28, 0, 0, 0, 0, 16, 0, 0, 4), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 16 * 2048, 8192);
	assert_int_equal(PACKET(4096, 0xa8, 0, 0, 0, 0, 98, 0, 0, 0, 2), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 98 * 2048, 4096);
	assert_int_equal(PACKET(2048, 0xbe, 0, 0, 0, 0, 20, 0, 0, 1, 0x10), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 20 * 2048, 2048);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 0), GOOD);
	assert_int_equal(PACKET(4096, 0x28, 0, 0, 0, 0, 99, 0, 0, 2), 0x5451);
	assert_int_equal(sense(), 0x052100);
	assert_int_equal(sense(), 0); /* told once */
	assert_int_equal(PACKET(2048, 0xbe, 0, 0, 0, 0, 20, 0, 0, 1, 0xf8), 0x5451);
	assert_int_equal(sense(), 0x052400);
	assert_int_equal(PACKET(2048, 0x2a, 0, 0, 0, 0, 20, 0, 0, 1), 0x5451); /* WRITE (10) */
	assert_int_equal(sense(), 0x052000);
	assert_int_equal(truncate(cd_path, 50 * 2048), 0);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 60, 0, 0, 1), 0x3051);
	assert_int_equal(sense(), 0x031100);
}

static void describes_a_disc(void **state)
{
	ready_cd();
	assert_int_equal(PACKET(20, 0x43, 0, 0, 0, 0, 0, 0, 0, 20), GOOD); /* TOC */
	assert_memory_equal(memory(DATA), "\0\022\1\1\0\024\1\0\0\0\0\0\0\024\252\0\0\0\0\144", 20);
	assert_int_equal(PACKET(20, 0x43, 2, 0, 0, 0, 0, 0xaa, 0, 12), GOOD); /* the lead-out as minute, second, frame */
	assert_memory_equal(memory(DATA), "\0\012\1\1\0\024\252\0\0\0\3\031", 12);
	assert_int_equal(PACKET(48, 0x43, 0, 2, 0, 0, 0, 0, 0, 48), GOOD);
	assert_int_equal(memory(DATA)[1], 46);
	assert_int_equal(PACKET(12, 0x43, 0, 1, 0, 0, 0, 0, 0, 12), GOOD);
	assert_int_equal(memory(DATA)[1], 10);
	assert_int_equal(PACKET(8, 0x46, 0, 0, 0, 0, 0, 0, 0, 8), GOOD); /* GET CONFIGURATION */
	assert_int_equal(memory(DATA)[7], 0x08);
	assert_int_equal(PACKET(64, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 64), GOOD);
	assert_int_equal(memory(DATA)[8], 0x2a);
	assert_int_equal(memory(DATA)[1], 8 + 20 - 2);
	assert_int_equal(PACKET(64, 0x1a, 0, 0x3f, 0, 64), GOOD);
	assert_int_equal(memory(DATA)[0], 4 + 8 + 20 - 1);
	assert_int_equal(PACKET(34, 0x51, 0, 0, 0, 0, 0, 0, 0, 34), GOOD);
	assert_int_equal(memory(DATA)[2], 0x0e);
	assert_int_equal(PACKET(8, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8), GOOD);
	assert_int_equal(PACKET(64, 0x5a, 0, 0x0d, 0, 0, 0, 0, 0, 64), 0x5451);
	assert_int_equal(sense(), 0x052400);
	assert_int_equal(PACKET(64, 0x46, 2, 0, 3, 0, 0, 0, 0, 64), GOOD);
	assert_int_equal(memory(DATA)[9], 3); /* the one feature asked for */
	assert_int_equal(memory(DATA)[3], 12);
}

static void ejects_and_loads(void **state)
{
	ready_cd();
	assert_int_equal(PACKET(2, 0x1e, 0, 0, 0, 1), GOOD);
	assert_int_equal(PACKET(2, 0x1b, 0, 0, 0, 2), 0x5451); /* locked */
	assert_int_equal(sense(), 0x055302);
	assert_int_equal(PACKET(2, 0x1e, 0, 0, 0, 0), GOOD);
	assert_int_equal(PACKET(2, 0x1b, 0, 0, 0, 2), GOOD);
	assert_int_equal(PACKET(2, 0x00), 0x2051);
	assert_int_equal(sense(), 0x023a02);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0x2051);
	recover(CD);
	assert_int_equal(PACKET(8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), GOOD); /* GET EVENT STATUS */
	assert_memory_equal(memory(DATA), "\0\6\4\020\3\1", 6);
	machine_lock(machine);
	machine_reset_devices(machine); /* a tray stays open */
	machine_unlock(machine);
	enable_controller();
	start_port(CD);
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	recover(CD);
	assert_int_equal(PACKET(2, 0x00), 0x2051);
	recover(CD);
	assert_int_equal(PACKET(2, 0x1b, 0, 0, 0, 3), GOOD);
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	assert_int_equal(sense(), 0x062800);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), GOOD);
	assert_memory_equal(memory(DATA), cd_content, 2048);
}

/* ---- somebody in front of the drive ---- */

static void make_second_cd(char *path, size_t size)
{
	static uint8_t content[20 * 2048];

	memset(content, 0x5a, sizeof(content));
	snprintf(path, size, "%s/second", folder);
	write_image(path, content, sizeof(content));
}

/* code << 8 | status, of the next event that the drive tells. */
static uint32_t media_event(void)
{
	assert_int_equal(PACKET(8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), GOOD);
	return memory(DATA)[4] << 8 | memory(DATA)[5];
}

static void a_disc_is_taken_out(void **state)
{
	struct cdrom_status status;

	ready_cd();
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, NULL, NULL, false), 0);
	assert_int_equal(PACKET(2, 0x00), 0x2051);
	assert_int_equal(sense(), 0x023a02);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0x2051);
	recover(CD);
	assert_int_equal(PACKET(8, 0x25), 0x2051);
	recover(CD);
	assert_int_equal(media_event(), 0x0301);
	assert_int_equal(media_event(), 0x0001); /* told once */
	assert_true(cdrom_status(machine, 1, &status));
	assert_null(status.file);
	assert_true(status.open);
	assert_int_equal(PACKET(2, 0x1b, 0, 0, 0, 3), GOOD); /* the guest closes the tray: nothing is in it */
	assert_int_equal(PACKET(2, 0x00), 0x2051);
	assert_int_equal(sense(), 0x023a01);
	assert_int_equal(media_event(), 0x0000);
	assert_int_equal(PACKET(8, 0x46, 0, 0, 0, 0, 0, 0, 0, 8), GOOD);
	assert_int_equal(memory(DATA)[7], 0); /* no current profile */
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, NULL, NULL, false), 0); /* no harm */
}

static void a_disc_is_exchanged(void **state)
{
	struct cdrom_status status;
	char second[96];

	ready_cd();
	make_second_cd(second, sizeof(second));
	assert_int_equal(cdrom_change(machine, 1, second, "raw", false), 0);
	assert_int_equal(PACKET(36, 0x12, 0, 0, 0, 36), GOOD); /* INQUIRY does not take the attention away */
	assert_int_equal(media_event(), 0x0302);
	assert_int_equal(media_event(), 0x0202);
	assert_int_equal(media_event(), 0x0002);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0x6051);
	assert_int_equal(sense(), 0x062800);
	assert_int_equal(PACKET(8, 0x25), GOOD);
	assert_memory_equal(memory(DATA), "\0\0\0\023\0\0\010\0", 8);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 19, 0, 0, 1), GOOD);
	assert_int_equal(memory(DATA)[2047], 0x5a);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 20, 0, 0, 1), 0x5451); /* there was more on the first one */
	assert_int_equal(sense(), 0x052100);
	assert_true(cdrom_status(machine, 1, &status));
	assert_string_equal(status.file, second);
	assert_false(status.open);
	assert_int_equal(cdrom_change(machine, 1, NULL, NULL, false), 0);
	assert_int_equal(cdrom_change(machine, 1, cd_path, NULL, false), 0);
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	assert_int_equal(sense(), 0x062800);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 60, 0, 0, 1), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 60 * 2048, 2048);
}

static void a_lock_is_honoured(void **state)
{
	char second[96];

	ready_cd();
	make_second_cd(second, sizeof(second));
	assert_int_equal(PACKET(2, 0x1e, 0, 0, 0, 1), GOOD);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, NULL, NULL, false), -EBUSY);
	assert_non_null(strstr(error_text(), "locked by the guest"));
	assert_int_equal(media_event(), 0x0102); /* the guest is asked */
	assert_int_equal(media_event(), 0x0002);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, second, "raw", false), -EBUSY);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 60, 0, 0, 1), GOOD); /* the disc is there */
	assert_int_equal(PACKET(2, 0x1e, 0, 0, 0, 0), GOOD);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, second, "raw", false), 0);
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	recover(CD);
	assert_int_equal(PACKET(2, 0x1e, 0, 0, 0, 1), GOOD);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, NULL, NULL, true), 0); /* by force */
	assert_int_equal(PACKET(2, 0x00), 0x2051);
	recover(CD);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, cd_path, "raw", false), 0); /* nothing is held */
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	recover(CD);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 60, 0, 0, 1), GOOD);
}

static void a_bad_disc_changes_nothing(void **state)
{
	char small[96];

	ready_cd();
	snprintf(small, sizeof(small), "%s/small", folder);
	write_image(small, cd_content, 1024);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, small, "raw", false), -EINVAL);
	assert_non_null(strstr(error_text(), "too small for a CD"));
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, "/no/such/file", NULL, true), -ENOENT);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, cd_path, "frob", false), -EINVAL);
	assert_int_equal(cdrom_change(machine, 0, cd_path, "raw", false), -ENODEV);
	assert_int_equal(cdrom_change(machine, 15, cd_path, "raw", false), -ENODEV);
	assert_int_equal(media_event(), 0x0002);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 60, 0, 0, 1), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 60 * 2048, 2048);
}

/* Commands under way are waited for; the clock of this machine stands still meanwhile. */
static void a_read_ends_with_its_disc(void **state)
{
	uint8_t fis[20], read[16] = {0x28, 0, 0, 0, 0, 60, 0, 0, 1};

	ready_cd();
	make_fis(fis, (struct ata_command){.code = 0xa0, .features = 1});
	fill_slot(CD, 0, fis, read, HEADER_ATAPI, (struct prd[]){{DATA, 2048}, {0}});
	port_set(CD, PX_CI, 1);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, NULL, NULL, true), -EAGAIN);
	pass(machine, 10000000);
	assert_int_equal(port_get(CD, PX_TFD), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 60 * 2048, 2048);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, NULL, NULL, true), 0);
}

static void a_drive_starts_empty(void **state)
{
	struct disk_config disks[] = {
	    {.file = disk_path, .format = "raw", .interface = DISK_AHCI},
	    {.interface = DISK_AHCI, .cdrom = true, .read_only = true, .boot_index = -1},
	    {.interface = DISK_AHCI, .cdrom = true, .read_only = true, .boot_index = -1},
	};

	machine_destroy(machine);
	if (make_machine(disks, 3))
		fail_msg("%s", error_text());
	enable_controller();
	for (unsigned port = 0; port < 4; port++)
		start_port(port);
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	assert_int_equal(sense(), 0x062900);
	assert_int_equal(PACKET(2, 0x00), 0x2051);
	assert_int_equal(sense(), 0x023a01);
	assert_int_equal(cdrom_change(machine, CDROM_ONLY, cd_path, "raw", false), -EINVAL); /* which one? */
	assert_int_equal(cdrom_change(machine, 1, cd_path, "raw", false), 0);
	assert_int_equal(PACKET(2, 0x00), 0x6051);
	assert_int_equal(sense(), 0x062800);
	assert_int_equal(PACKET(2048, 0x28, 0, 0, 0, 0, 60, 0, 0, 1), GOOD);
	assert_memory_equal(memory(DATA), cd_content + 60 * 2048, 2048);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(describes_itself), TEST(links_and_signatures), TEST(a_comreset), TEST(a_software_reset), TEST(an_hba_reset),
	    TEST(nothing_without_bus_master), TEST(interrupts_by_intx), TEST(interrupts_by_message), TEST(identifies_a_disk),
	    TEST(reads_and_writes_by_dma), TEST(older_commands), TEST(settings_and_logs), TEST(trims), TEST(queues_32_commands),
	    TEST(a_queued_command_fails), TEST(the_queue_is_of_one_kind), TEST(a_bad_address_is_not_found),
	    TEST(an_io_error_is_a_task_file_error), TEST(a_short_table_overflows), TEST(bad_memory_is_fatal),
	    TEST(a_bad_fis_is_fatal), TEST(a_reset_forgets_commands), TEST(identifies_a_cd_drive), TEST(reads_a_cd),
	    TEST(describes_a_disc), TEST(ejects_and_loads), TEST(a_disc_is_taken_out), TEST(a_disc_is_exchanged),
	    TEST(a_lock_is_honoured), TEST(a_bad_disc_changes_nothing), TEST(a_read_ends_with_its_disc),
	    TEST(a_drive_starts_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
