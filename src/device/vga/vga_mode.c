/*
 * What a video BIOS does before a guest starts, for guests that start without one. Rules: IBM PS/2 Hardware Interface
 * Technical Reference, "Video Modes": the registers of mode 3 with 720 x 400 dots.
 */
#include <stddef.h>
#include <string.h>

#include "device/vga/vga.h"

#define COLUMNS     80
#define ROWS        25
#define FONT_HEIGHT 16
#define FONT_SIZE   (256 * FONT_HEIGHT)

static const uint8_t mode3_sequencer[VGA_SEQUENCER_COUNT] = {0x03, 0x00, 0x03, 0x00, 0x02};
static const uint8_t mode3_crtc[VGA_CRTC_COUNT] = {
	0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00,
	0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
};
static const uint8_t mode3_graphics[VGA_GRAPHICS_COUNT] = {0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff};
static const uint8_t mode3_attribute[VGA_ATTRIBUTE_COUNT] = {
	0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
	0x0c, 0x00, 0x0f, 0x08, 0x00,
};

/* The 64 colours of an EGA: bits 0 to 2 are two thirds of blue, green and red, bits 3 to 5 the last third. */
static void set_palette(struct vga_registers *r)
{
	memset(r->dac, 0, sizeof(r->dac));
	for (unsigned i = 0; i < 64; i++)
		for (unsigned part = 0; part < 3; part++) {
			unsigned bit = 2 - part; /* red first */

			r->dac[i][part] = (uint8_t)((i >> bit & 1) * 42 + (i >> (bit + 3) & 1) * 21);
		}
	r->pel_mask = 0xff;
}

void vga_set_text_mode(struct vga *vga, const uint8_t *font)
{
	struct vga_registers *r = &vga->r;

	memcpy(r->sequencer, mode3_sequencer, sizeof(mode3_sequencer));
	memcpy(r->crtc, mode3_crtc, sizeof(mode3_crtc));
	memcpy(r->graphics, mode3_graphics, sizeof(mode3_graphics));
	memcpy(r->attribute, mode3_attribute, sizeof(mode3_attribute));
	r->attribute_index = AR_INDEX_SCREEN_ON;
	r->misc = 0x67;
	set_palette(r);
	/* Word mode and odd/even: cells are at the even offsets of planes 0 and 1. */
	for (unsigned i = 0; i < 0x8000 / 2; i++) {
		vga->vram[4 * (2 * i)] = ' ';
		vga->vram[4 * (2 * i) + 1] = 0x07;
	}
	for (unsigned i = 0; i < FONT_SIZE; i++)
		vga->vram[4 * (i / FONT_HEIGHT * 32 + i % FONT_HEIGHT) + 2] = font[i];
}

static bool is_all(const uint8_t *bytes, unsigned count, uint8_t value)
{
	for (unsigned i = 0; i < count; i++)
		if (bytes[i] != value)
			return false;
	return true;
}

/*
 * By the characters of code page 437 that must look the same in every font of its size: NUL, space and FFh are empty,
 * DBh is full, DCh and DFh are its lower and upper parts, and a letter is neither.
 */
static bool is_font(const uint8_t *font)
{
	return is_all(font, FONT_HEIGHT, 0) && is_all(font + ' ' * FONT_HEIGHT, FONT_HEIGHT, 0) &&
	       is_all(font + 0xff * FONT_HEIGHT, FONT_HEIGHT, 0) &&
	       is_all(font + 0xdb * FONT_HEIGHT, FONT_HEIGHT, 0xff) &&
	       is_all(font + 0xdc * FONT_HEIGHT, 6, 0) && is_all(font + 0xdc * FONT_HEIGHT + 10, 6, 0xff) &&
	       is_all(font + 0xdf * FONT_HEIGHT, 6, 0xff) && is_all(font + 0xdf * FONT_HEIGHT + 10, 6, 0) &&
	       !is_all(font + 'A' * FONT_HEIGHT, FONT_HEIGHT, 0) &&
	       !is_all(font + 'A' * FONT_HEIGHT, FONT_HEIGHT, 0xff);
}

const uint8_t *vga_find_font(const uint8_t *rom, uint64_t size)
{
	for (uint64_t at = 0; at + FONT_SIZE <= size; at++)
		if (is_font(rom + at))
			return rom + at;
	return NULL;
}
