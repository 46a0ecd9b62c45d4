/*
 * The display interface that Bochs gave its VGA and that video BIOSes, OVMF and Linux drive: eleven 16-bit registers
 * for linear modes of 8 to 32 bits per pixel, a 4-bit planar one, and panning over a larger picture. Rules: Bochs,
 * "VBE Display API".
 */
#include <string.h>

#include "device/vga/vga.h"

#define ID_FIRST 0xb0c0
#define ID_LAST  0xb0c5

bool vga_dispi_is_linear(const struct vga_registers *r)
{
	return r->dispi[DISPI_ENABLE] & DISPI_ENABLED && r->dispi[DISPI_BPP] > 4;
}

static bool is_depth(uint16_t bpp)
{
	return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Bytes of memory that a line of `width` pixels takes; of all four planes with 4 bits per pixel. */
static uint32_t line_size(const struct vga_registers *r, uint32_t width)
{
	if (r->dispi[DISPI_BPP] == 4)
		return (width + 7) / 8 * 4;
	return width * ((r->dispi[DISPI_BPP] + 7u) / 8);
}

/* The larger picture is as wide as asked and as high as memory allows; refused where not even the screen fits. */
static bool set_virtual_width(struct vga_registers *r, uint16_t width)
{
	uint32_t height;

	if (width < r->dispi[DISPI_XRES])
		width = r->dispi[DISPI_XRES];
	height = VGA_VRAM_SIZE / line_size(r, width);
	if (height < r->dispi[DISPI_YRES])
		return false;
	r->dispi[DISPI_VIRT_WIDTH] = width;
	r->dispi[DISPI_VIRT_HEIGHT] = (uint16_t)(height > UINT16_MAX ? UINT16_MAX : height);
	return true;
}

static void start_at(struct vga_registers *r, uint16_t x, uint16_t y)
{
	unsigned right = r->dispi[DISPI_VIRT_WIDTH] - r->dispi[DISPI_XRES];
	unsigned bottom = r->dispi[DISPI_VIRT_HEIGHT] - r->dispi[DISPI_YRES];

	r->dispi[DISPI_X_OFFSET] = (uint16_t)(x > right ? right : x);
	r->dispi[DISPI_Y_OFFSET] = (uint16_t)(y > bottom ? bottom : y);
}

/* Returns whether the mode can be shown. */
static bool begin_mode(struct vga_registers *r)
{
	if (!r->dispi[DISPI_XRES] || !r->dispi[DISPI_YRES] || !is_depth(r->dispi[DISPI_BPP]))
		return false;
	if (!set_virtual_width(r, r->dispi[DISPI_XRES]))
		return false;
	start_at(r, 0, 0);
	return true;
}

static void write_enable(struct vga *vga, uint16_t value)
{
	struct vga_registers *r = &vga->r;
	bool was_on = r->dispi[DISPI_ENABLE] & DISPI_ENABLED;

	value &= DISPI_ENABLED | DISPI_CAPS | DISPI_8BIT_DAC | DISPI_LINEAR | DISPI_NO_CLEAR;
	if (value & DISPI_ENABLED && !was_on) {
		if (!begin_mode(r))
			value &= (uint16_t)~DISPI_ENABLED;
		else if (!(value & DISPI_NO_CLEAR))
			memset(vga->vram, 0,
			       (size_t)line_size(r, r->dispi[DISPI_XRES]) * r->dispi[DISPI_YRES]);
	}
	if (!(value & DISPI_ENABLED))
		r->dispi[DISPI_BANK] = 0;
	r->dispi[DISPI_ENABLE] = value;
}

/* Size or depth; in a mode that is on, only what memory has room for. */
static void write_geometry(struct vga_registers *r, unsigned index, uint16_t value)
{
	uint16_t old = r->dispi[index];

	r->dispi[index] = value;
	if (!(r->dispi[DISPI_ENABLE] & DISPI_ENABLED))
		return;
	if (set_virtual_width(r, r->dispi[DISPI_VIRT_WIDTH]))
		start_at(r, r->dispi[DISPI_X_OFFSET], r->dispi[DISPI_Y_OFFSET]);
	else
		r->dispi[index] = old;
}

void vga_dispi_write(struct vga *vga, unsigned index, uint16_t value)
{
	struct vga_registers *r = &vga->r;
	bool on = r->dispi[DISPI_ENABLE] & DISPI_ENABLED;

	switch (index) {
	case DISPI_ID:
		if (value >= ID_FIRST && value <= ID_LAST)
			r->dispi[DISPI_ID] = value;
		break;
	case DISPI_XRES:
		if (value && value <= DISPI_XRES_MAX)
			write_geometry(r, index, value);
		break;
	case DISPI_YRES:
		if (value && value <= DISPI_YRES_MAX)
			write_geometry(r, index, value);
		break;
	case DISPI_BPP:
		if (is_depth(value))
			write_geometry(r, index, value);
		break;
	case DISPI_ENABLE:
		write_enable(vga, value);
		break;
	case DISPI_BANK:
		if (value < VGA_VRAM_SIZE / VGA_BANK_SIZE)
			r->dispi[DISPI_BANK] = value;
		break;
	case DISPI_VIRT_WIDTH:
		if (on && set_virtual_width(r, value))
			start_at(r, r->dispi[DISPI_X_OFFSET], r->dispi[DISPI_Y_OFFSET]);
		break;
	case DISPI_X_OFFSET:
		if (on)
			start_at(r, value, r->dispi[DISPI_Y_OFFSET]);
		break;
	case DISPI_Y_OFFSET:
		if (on)
			start_at(r, r->dispi[DISPI_X_OFFSET], value);
		break;
	default: /* the height follows from the width; the size of memory is what it is */
		break;
	}
}

uint16_t vga_dispi_read(const struct vga *vga, unsigned index)
{
	static const uint16_t most[] = {[DISPI_XRES] = DISPI_XRES_MAX, [DISPI_YRES] = DISPI_YRES_MAX, [DISPI_BPP] = 32};

	if (index >= DISPI_COUNT)
		return 0;
	if (vga->r.dispi[DISPI_ENABLE] & DISPI_CAPS && index >= DISPI_XRES && index <= DISPI_BPP)
		return most[index];
	return vga->r.dispi[index];
}

void vga_dispi_reset(struct vga *vga)
{
	memset(vga->r.dispi, 0, sizeof(vga->r.dispi));
	vga->r.dispi_index = 0;
	vga->r.dispi[DISPI_ID] = ID_LAST;
	vga->r.dispi[DISPI_BPP] = 8;
	vga->r.dispi[DISPI_MEMORY_64K] = VGA_VRAM_SIZE >> 16;
	vga->r.big_endian = false;
}
