/*
 * edu-test pin|msi: drives the edu device (docs/devices.md) from user space through uio_pci_generic, which counts its
 * interrupts. DMA goes through locked pages whose frames /proc/self/pagemap tells. "msi" makes the device send messages
 * with the vector that the kernel has given to its pin, which /dev/mem shows in the IOAPIC (iomem=relaxed). Prints what
 * went well and exits 0, or says what did not.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define IOAPIC 0xfec00000
#define PAGE   4096

static volatile uint32_t *edu;
static int config, uio;

static void fail(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	printf("::wrong edu: ");
	vprintf(format, list);
	printf("\n");
	va_end(list);
	exit(1);
}

static uint32_t read_config(unsigned offset, unsigned size)
{
	uint32_t value = 0;

	if (pread(config, &value, size, offset) != (ssize_t)size)
		fail("configuration space at %#x cannot be read", offset);
	return value;
}

static void write_config(unsigned offset, unsigned size, uint32_t value)
{
	if (pwrite(config, &value, size, offset) != (ssize_t)size)
		fail("configuration space at %#x cannot be written", offset);
}

/* uio_pci_generic masks the pin by the command register's Interrupt Disable. */
static void unmask_pin(void)
{
	write_config(4, 2, read_config(4, 2) & ~0x400u);
}

/* Waits for the next interrupt; returns how many there have been. */
static uint32_t wait_interrupt(const char *what)
{
	struct pollfd poller = {.fd = uio, .events = POLLIN};
	uint32_t count;

	if (poll(&poller, 1, 5000) != 1 || read(uio, &count, sizeof(count)) != sizeof(count))
		fail("no interrupt by %s", what);
	return count;
}

static void interrupt_twice(const char *what)
{
	uint32_t first, second;

	edu[0x60 / 4] = 5;
	first = wait_interrupt(what);
	if (edu[0x24 / 4] != 5)
		fail("status %#x instead of 5", edu[0x24 / 4]);
	edu[0x64 / 4] = 5;
	unmask_pin();
	edu[0x20 / 4] = 0x80;
	edu[0x08 / 4] = 6;
	second = wait_interrupt(what);
	if (edu[0x08 / 4] != 720)
		fail("6! is %u", edu[0x08 / 4]);
	edu[0x64 / 4] = edu[0x24 / 4];
	edu[0x20 / 4] = 0;
	unmask_pin();
	if (second != first + 1)
		fail("%u interrupts by %s instead of 1", second - first, what);
	printf("edu: interrupts by %s\n", what);
}

static uint64_t physical(const void *address)
{
	int map = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (pread(map, &entry, 8, (off_t)((uintptr_t)address / PAGE * 8)) != 8 || !(entry & ((1ull << 55) - 1)))
		fail("no page frame for %p", address);
	close(map);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void transfer(uint64_t from, uint64_t to, uint64_t count, uint32_t command)
{
	volatile uint64_t *wide = (volatile uint64_t *)edu;

	wide[0x80 / 8] = from;
	wide[0x88 / 8] = to;
	wide[0x90 / 8] = count;
	wide[0x98 / 8] = command;
	for (unsigned i = 0; i < 5000 && wide[0x98 / 8] & 1; i++)
		usleep(1000);
	if (wide[0x98 / 8] & 1)
		fail("a transfer does not end");
}

static void check_dma(void)
{
	uint8_t *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (page == MAP_FAILED || mlock(page, 2 * PAGE))
		fail("no memory");
	for (unsigned i = 0; i < PAGE; i++)
		page[i] = (uint8_t)(i * 13 + 5);
	memset(page + PAGE, 0, PAGE);
	transfer(physical(page), 0x40000, PAGE, 1);
	transfer(0x40000, physical(page + PAGE), PAGE, 3);
	if (memcmp(page, page + PAGE, PAGE))
		fail("DMA there and back changed the page");
	printf("edu: DMA\n");
}

/* The redirection entry of the pin's input: vector, destination. */
static uint64_t ioapic_entry(unsigned input)
{
	int memory = open("/dev/mem", O_RDWR | O_SYNC);
	volatile uint32_t *ioapic = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, IOAPIC);
	uint64_t entry;

	if (ioapic == MAP_FAILED)
		fail("/dev/mem does not give the IOAPIC");
	ioapic[0] = 0x10 + 2 * input;
	entry = ioapic[4];
	ioapic[0] = 0x11 + 2 * input;
	return entry | (uint64_t)ioapic[4] << 32;
}

static void switch_to_msi(unsigned slot)
{
	unsigned offset = read_config(0x34, 1);
	uint64_t entry = ioapic_entry(20 + (slot & 3)); /* INTA of slot 0 … 24 */

	while (offset && read_config(offset, 1) != 5)
		offset = read_config(offset + 1, 1);
	if (!offset)
		fail("no MSI capability");
	write_config(offset + 4, 4, 0xfee00000 | (uint32_t)(entry >> 56) << 12 | (entry & 1u << 11 ? 4 : 0));
	write_config(offset + 8, 4, 0);
	write_config(offset + 12, 2, (uint32_t)(entry & 0xff));
	write_config(offset + 2, 2, 1);
}

int main(int argc, char **argv)
{
	const char *device = getenv("EDU");
	char path[128];
	int file;

	if (argc != 2 || !device)
		fail("EDU=0000:00:02.0 edu-test pin|msi");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", device);
	file = open(path, O_RDWR | O_SYNC);
	edu = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", device);
	config = open(path, O_RDWR);
	uio = open("/dev/uio0", O_RDWR);
	if (edu == MAP_FAILED || config < 0 || uio < 0)
		fail("%s cannot be opened", device);
	if (edu[0] != 0x010000ed)
		fail("it says %#x", edu[0]);
	edu[1] = 0x12345678;
	if (edu[1] != ~0x12345678u)
		fail("it is not alive");
	write_config(4, 2, read_config(4, 2) | 6);
	unmask_pin();
	if (!strcmp(argv[1], "msi"))
		switch_to_msi((unsigned)strtoul(device + 8, NULL, 16));
	interrupt_twice(argv[1]);
	check_dma();
	return 0;
}
