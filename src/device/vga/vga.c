/*
 * A VGA with the Bochs display interface, as the PCI device 1234:1111 that video BIOSes, OVMF and Linux know: BAR 0 is
 * its memory, BAR 2 its registers (VGA's from 400h, the display interface's from 500h, byte order at 604h), the
 * expansion ROM is a video BIOS. Besides it answers at a VGA's own ports and memory, always: it is the only one.
 * Register masks and semantics: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; see vga.h.
 */
#include "device/vga/vga.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "device/devices.h"
#include "display/display.h"
#include "machine/machine.h"
#include "util/error.h"

#define PORTS_MONO   0x3b0 /* 3B0h … 3BBh; 3BCh belongs to a printer port */
#define PORTS        0x3c0
#define PORTS_COLOUR 0x3d0
#define PORTS_DISPI  0x1ce /* index; data at 1CFh, and for those who keep to even ports at 1D0h */

#define MMIO_SIZE       4096
#define MMIO_PORTS      0x400 /* 3C0h … 3DFh */
#define MMIO_PORTS_END  0x420
#define MMIO_DISPI      0x500
#define MMIO_DISPI_END  (MMIO_DISPI + 2 * DISPI_COUNT)
#define MMIO_EXTENSION  0x600 /* how many bytes of it there are, then the byte order */
#define EXTENSION_SIZE  8
#define ORDER_LITTLE    0x1e1e1e1eu
#define ORDER_BIG       0xbebebebeu

#define ROM_SIZE_MAX 0x40000
#define VGA_SLOT     1 /* so that no other device's slot depends on there being a VGA */

/* Frame timing of mode 3: 449 lines, of which 400 are seen. */
#define LINE_NS       31778u
#define LINE_SEEN_NS  25422u
#define FRAME_LINES   449u
#define FRAME_SEEN    400u

#define STATUS1_DISABLED 0x01
#define STATUS1_RETRACE  0x08

/* ---- ports ---- */

static const uint8_t sequencer_mask[VGA_SEQUENCER_COUNT] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
static const uint8_t graphics_mask[VGA_GRAPHICS_COUNT] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03,
                                                          0x7b, 0x0f, 0x0f, 0xff};

static uint8_t attribute_mask(unsigned index)
{
	static const uint8_t mask[] = {0xef, 0xff, 0x3f, 0x0f, 0x0f};

	return index < AR_MODE ? 0x3f : mask[index - AR_MODE];
}

static void write_attribute(struct vga *vga, uint8_t value)
{
	unsigned index = vga->r.attribute_index & 0x1f;

	if (!vga->attribute_is_data)
		vga->r.attribute_index = value & 0x3f;
	else if (index < VGA_ATTRIBUTE_COUNT)
		vga->r.attribute[index] = value & attribute_mask(index);
	vga->attribute_is_data = !vga->attribute_is_data;
}

static void write_crtc(struct vga *vga, uint8_t value)
{
	unsigned index = vga->r.crtc_index;
	uint8_t *reg;

	if (index >= VGA_CRTC_COUNT)
		return;
	reg = &vga->r.crtc[index];
	/* "Protect": registers 0 to 7 are read-only, but for the line compare bit. */
	if (vga->r.crtc[CR_RETRACE_END] & 0x80 && index <= CR_OVERFLOW) {
		if (index == CR_OVERFLOW)
			*reg = (uint8_t)((*reg & ~0x10) | (value & 0x10));
		return;
	}
	*reg = value;
}

static uint8_t dac_width_mask(const struct vga *vga)
{
	return vga->r.dispi[DISPI_ENABLE] & DISPI_8BIT_DAC ? 0xff : 0x3f;
}

/* Three writes make an entry; it changes with the third. */
static void write_dac(struct vga *vga, uint8_t value)
{
	uint8_t *entry = vga->r.dac[vga->dac_write];

	value &= dac_width_mask(vga);
	if (vga->dac_part < 2) {
		vga->dac_new[vga->dac_part++] = value;
		return;
	}
	entry[0] = vga->dac_new[0];
	entry[1] = vga->dac_new[1];
	entry[2] = value;
	vga->dac_part = 0;
	vga->dac_write++;
}

static uint8_t read_dac(struct vga *vga)
{
	uint8_t value = vga->r.dac[vga->dac_read][vga->dac_part] & dac_width_mask(vga);

	if (++vga->dac_part == 3) {
		vga->dac_part = 0;
		vga->dac_read++;
	}
	return value;
}

/* "Input Status Register 1": where the beam would be. Reading makes the attribute port expect an index. */
static uint8_t read_status1(struct vga *vga)
{
	uint64_t now = machine_now(vga->machine);
	uint64_t line = now / LINE_NS % FRAME_LINES;

	vga->attribute_is_data = false;
	if (line >= FRAME_SEEN)
		return STATUS1_DISABLED | STATUS1_RETRACE;
	return now % LINE_NS >= LINE_SEEN_NS ? STATUS1_DISABLED : 0;
}

/* The CRTC and its neighbours are at 3Bxh or 3Dxh, as the miscellaneous output register says. */
static bool is_elsewhere(const struct vga *vga, unsigned port)
{
	bool colour = vga->r.misc & MISC_COLOUR;

	return port < PORTS ? colour : port >= PORTS_COLOUR && !colour;
}

static uint8_t port_read(struct vga *vga, unsigned port)
{
	const struct vga_registers *r = &vga->r;
	unsigned index = r->attribute_index & 0x1f;

	if (is_elsewhere(vga, port))
		return 0xff;
	switch (port < PORTS ? port + 0x20 : port) {
	case 0x3c0:
		return r->attribute_index;
	case 0x3c1:
		return index < VGA_ATTRIBUTE_COUNT ? r->attribute[index] : 0;
	case 0x3c2: /* input status 0: a monitor is there, no interrupt */
		return 0x10;
	case 0x3c3:
		return 0x01;
	case 0x3c4:
		return r->sequencer_index;
	case 0x3c5:
		return r->sequencer_index < VGA_SEQUENCER_COUNT ? r->sequencer[r->sequencer_index] : 0;
	case 0x3c6:
		return r->pel_mask;
	case 0x3c7:
		return vga->dac_state;
	case 0x3c8:
		return vga->dac_write;
	case 0x3c9:
		return read_dac(vga);
	case 0x3ca:
		return r->feature;
	case 0x3cc:
		return r->misc;
	case 0x3ce:
		return r->graphics_index;
	case 0x3cf:
		return r->graphics_index < VGA_GRAPHICS_COUNT ? r->graphics[r->graphics_index] : 0;
	case 0x3d4:
		return r->crtc_index;
	case 0x3d5:
		return r->crtc_index < VGA_CRTC_COUNT ? r->crtc[r->crtc_index] : 0;
	case 0x3da:
		return read_status1(vga);
	default:
		return 0xff;
	}
}

static void port_write(struct vga *vga, unsigned port, uint8_t value)
{
	struct vga_registers *r = &vga->r;

	if (is_elsewhere(vga, port))
		return;
	switch (port < PORTS ? port + 0x20 : port) {
	case 0x3c0:
		write_attribute(vga, value);
		break;
	case 0x3c2:
		r->misc = value & 0xef;
		break;
	case 0x3c4:
		r->sequencer_index = value & 0x07;
		break;
	case 0x3c5:
		if (r->sequencer_index < VGA_SEQUENCER_COUNT)
			r->sequencer[r->sequencer_index] = value & sequencer_mask[r->sequencer_index];
		break;
	case 0x3c6:
		r->pel_mask = value;
		break;
	case 0x3c7:
		vga->dac_read = value;
		vga->dac_part = 0;
		vga->dac_state = 3;
		break;
	case 0x3c8:
		vga->dac_write = value;
		vga->dac_part = 0;
		vga->dac_state = 0;
		break;
	case 0x3c9:
		write_dac(vga, value);
		break;
	case 0x3ce:
		r->graphics_index = value & 0x0f;
		break;
	case 0x3cf:
		if (r->graphics_index < VGA_GRAPHICS_COUNT)
			r->graphics[r->graphics_index] = value & graphics_mask[r->graphics_index];
		break;
	case 0x3d4:
		r->crtc_index = value & 0x3f;
		break;
	case 0x3d5:
		write_crtc(vga, value);
		break;
	case 0x3da:
		r->feature = value & 0x0b;
		break;
	default:
		break;
	}
}

/* ---- the buses ---- */

static uint64_t mono_read(void *device, uint64_t offset, unsigned size)
{
	return port_read(device, PORTS_MONO + (unsigned)offset);
}

static void mono_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	port_write(device, PORTS_MONO + (unsigned)offset, (uint8_t)value);
}

static uint64_t ports_read(void *device, uint64_t offset, unsigned size)
{
	return port_read(device, PORTS + (unsigned)offset);
}

static void ports_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	port_write(device, PORTS + (unsigned)offset, (uint8_t)value);
}

static uint64_t dispi_read(void *device, uint64_t offset, unsigned size)
{
	struct vga *vga = device;

	if (size != 2)
		return bus_ones(size);
	return offset ? vga_dispi_read(vga, vga->r.dispi_index) : vga->r.dispi_index;
}

static void dispi_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct vga *vga = device;

	if (size != 2)
		return;
	if (offset)
		vga_dispi_write(vga, vga->r.dispi_index, (uint16_t)value);
	else
		vga->r.dispi_index = (uint16_t)value;
}

static uint64_t window_read(void *device, uint64_t offset, unsigned size)
{
	return vga_memory_read(device, (uint32_t)offset);
}

static void window_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	vga_memory_write(device, (uint32_t)offset, (uint8_t)value);
}

/* Two bytes of BAR 2 at an even offset. */
static uint16_t mmio_read16(struct vga *vga, unsigned offset)
{
	uint32_t order = vga->r.big_endian ? ORDER_BIG : ORDER_LITTLE;

	if (offset >= MMIO_DISPI && offset < MMIO_DISPI_END)
		return vga_dispi_read(vga, (offset - MMIO_DISPI) / 2);
	if (offset == MMIO_EXTENSION)
		return EXTENSION_SIZE;
	if (offset >= MMIO_EXTENSION + 4 && offset < MMIO_EXTENSION + 8)
		return (uint16_t)order;
	return offset < MMIO_EXTENSION + EXTENSION_SIZE && offset >= MMIO_EXTENSION ? 0 : 0xffff;
}

static uint64_t mmio_read(void *device, uint64_t offset, unsigned size)
{
	struct vga *vga = device;
	uint64_t value = 0;

	if (offset >= MMIO_PORTS && offset + size <= MMIO_PORTS_END) {
		for (unsigned i = 0; i < size; i++)
			value |= (uint64_t)port_read(vga, PORTS + (unsigned)offset - MMIO_PORTS + i)
			         << (8 * i);
		return value;
	}
	if (size == 1)
		return mmio_read16(vga, (unsigned)offset & ~1u) >> (8 * (offset & 1)) & 0xff;
	for (unsigned i = 0; i < size; i += 2)
		value |= (uint64_t)mmio_read16(vga, ((unsigned)offset + i) & ~1u) << (8 * i);
	return value;
}

static void mmio_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct vga *vga = device;

	if (offset >= MMIO_PORTS && offset + size <= MMIO_PORTS_END) {
		for (unsigned i = 0; i < size; i++)
			port_write(vga, PORTS + (unsigned)offset - MMIO_PORTS + i,
			           (uint8_t)(value >> (8 * i)));
	} else if (size >= 2 && offset % 2 == 0 && offset >= MMIO_DISPI && offset + size <= MMIO_DISPI_END) {
		for (unsigned i = 0; i < size; i += 2)
			vga_dispi_write(vga, ((unsigned)offset - MMIO_DISPI + i) / 2,
			                (uint16_t)(value >> (8 * i)));
	} else if (size == 4 && offset == MMIO_EXTENSION + 4) {
		if (value == ORDER_LITTLE || value == ORDER_BIG)
			vga->r.big_endian = value == ORDER_BIG;
	}
}

static const struct bus_ops mono_ops = {1, mono_read, mono_write};
static const struct bus_ops ports_ops = {1, ports_read, ports_write};
static const struct bus_ops dispi_ops = {2, dispi_read, dispi_write};
static const struct bus_ops window_ops = {1, window_read, window_write};
static const struct bus_ops mmio_ops = {4, mmio_read, mmio_write};

/* ---- the picture ---- */

static void draw(void *device, struct surface *surface)
{
	struct vga *vga = device;
	struct vga_registers registers;
	uint64_t now;

	machine_lock(vga->machine);
	registers = vga->r;
	now = machine_now(vga->machine);
	machine_unlock(vga->machine);
	vga_draw(&registers, vga->vram, now, surface);
}

/* ---- the device ---- */

static void vga_reset(void *state)
{
	struct vga *vga = state;
	const uint8_t *font;

	memset(&vga->r, 0, sizeof(vga->r));
	memset(vga->latch, 0, sizeof(vga->latch));
	vga->attribute_is_data = false;
	vga->dac_read = vga->dac_write = vga->dac_part = vga->dac_state = 0;
	memset(vga->vram, 0, VGA_VRAM_SIZE);
	vga_dispi_reset(vga);
	pci_reset(&vga->pci);
	if (vga->machine->config.firmware)
		return;
	font = vga_find_font(vga->rom, vga->rom_size);
	if (font)
		vga_set_text_mode(vga, font);
}

static void vga_destroy(void *state)
{
	struct vga *vga = state;

	if (vga->vram)
		munmap(vga->vram, VGA_VRAM_SIZE);
	if (vga->rom)
		munmap(vga->rom, vga->rom_size);
	free(vga);
}

static void *pages(uint64_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* Debian's packages seabios and vgabios; the first that is there. */
static int open_video_bios(const char **path)
{
	static const char *const paths[] = {"/usr/share/seabios/vgabios-stdvga.bin",
	                                    "/usr/share/qemu/vgabios-stdvga.bin",
	                                    "/usr/share/vgabios/vgabios.bin"};

	for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		*path = paths[i];
		if (fd >= 0)
			return fd;
	}
	return error_set(ENOENT,
	                 "--vga std: its video BIOS /usr/share/seabios/vgabios-stdvga.bin is missing: "
	                 "apt-get install seabios, or --vga none");
}

static int load_video_bios(struct vga *vga)
{
	const char *path;
	int fd = open_video_bios(&path);
	uint64_t got = 0;
	struct stat status;
	ssize_t count;

	if (fd < 0)
		return fd;
	if (fstat(fd, &status) || status.st_size < 512 || status.st_size > ROM_SIZE_MAX) {
		close(fd);
		return error_set(EINVAL, "--vga std: %s is no video BIOS: it must have 512 bytes to 256K",
		                 path);
	}
	vga->rom_size = PAGE_SIZE;
	while (vga->rom_size < (uint64_t)status.st_size)
		vga->rom_size *= 2;
	vga->rom = pages(vga->rom_size);
	while (vga->rom && got < (uint64_t)status.st_size &&
	       (count = read(fd, vga->rom + got, (size_t)status.st_size - got)) > 0)
		got += (uint64_t)count;
	close(fd);
	if (!vga->rom)
		return error_set(ENOMEM, "out of memory");
	if (got < (uint64_t)status.st_size)
		return error_set(EIO, "--vga std: cannot read %s", path);
	return 0;
}

static int claim(struct vga *vga)
{
	struct machine *machine = vga->machine;
	int error = bus_add(&machine->pio, PORTS_MONO, 12, &mono_ops, vga, "vga");

	if (!error)
		error = bus_add(&machine->pio, PORTS, 32, &ports_ops, vga, "vga");
	if (!error)
		error = bus_add(&machine->pio, PORTS_DISPI, 4, &dispi_ops, vga, "vga-dispi");
	if (!error)
		error = bus_add(&machine->mmio, VGA_WINDOW, VGA_WINDOW_SIZE, &window_ops, vga, "vga-memory");
	return error;
}

int vga_create(struct machine *machine)
{
	static const struct pci_identity identity = {.vendor = 0x1234, .device = 0x1111, .subsystem_vendor = 0x1af4,
	                                             .subsystem = 0x1100, .class_code = 0x030000, .revision = 2};
	struct vga *vga;
	int error;

	if (machine->config.vga == MACHINE_VGA_NONE)
		return 0;
	vga = calloc(1, sizeof(*vga));
	if (!vga)
		return error_set(ENOMEM, "out of memory");
	vga->machine = machine;
	vga->vram = pages(VGA_VRAM_SIZE);
	error = vga->vram ? load_video_bios(vga) : error_set(ENOMEM, "out of memory for the VGA");
	if (!error)
		error = machine_add_device(machine, "vga", vga, vga_reset, vga_destroy);
	if (error) {
		vga_destroy(vga);
		return error;
	}
	pci_init(&vga->pci, "vga", vga, &identity);
	pci_bar_ram(&vga->pci, 0, VGA_VRAM_SIZE, vga->vram, false);
	pci_bar_memory(&vga->pci, 2, MMIO_SIZE, false, &mmio_ops);
	pci_bar_ram(&vga->pci, PCI_BARS, vga->rom_size, vga->rom, true);
	error = pci_add(machine, &vga->pci, VGA_SLOT, 0);
	if (!error)
		error = claim(vga);
	if (!error)
		display_set_source(machine->display, draw, vga);
	return error;
}
