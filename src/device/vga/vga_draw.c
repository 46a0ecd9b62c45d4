/*
 * From registers and memory to a picture, as a monitor would show it. A frame is drawn in the order of the hardware:
 * for each scan line the CRT controller counts character clocks; each clock its memory address counter, by the byte,
 * word or doubleword mode, makes a plane offset; the four bytes there become a character's dots (text) or 4 or 8
 * pixels (graphics); the attribute controller and the DAC make colours of them. So panning, split screens, doubled
 * lines and modes that no BIOS knows come out by themselves. Every line is eight dots per clock wide (nine in text
 * with nine-dot characters); pixels that take two dots are drawn two dots wide.
 *
 * Linear modes of the display interface are simply copied.
 */
#include <string.h>

#include "device/vga/vga.h"
#include "display/surface.h"

#define CLOCKS_MAX (256 + 1) /* one more than can be seen, for panning */
#define DOTS_MAX   (2 * 9 * CLOCKS_MAX)
#define FRAME_NS   (1000000000u / 70)

#define CRTC_MODE_ROW_13   0x01 /* 0: address bit 13 is the row scan's bit 0 */
#define CRTC_MODE_ROW_14   0x02 /* 0: bit 14 its bit 1 */
#define CRTC_MODE_COUNT2   0x08
#define CRTC_MODE_WRAP     0x20
#define CRTC_MODE_BYTE     0x40
#define CRTC_UNDERLINE_DOUBLEWORD 0x40
#define CRTC_UNDERLINE_COUNT4     0x20
#define CRTC_DOUBLE_LINES  0x80

struct frame {
	const struct vga_registers *r;
	const uint8_t *vram;
	uint32_t colour[256];     /* by DAC index */
	uint32_t attribute[16];   /* by 4-bit colour */
	unsigned clocks, lines;   /* that are seen */
	unsigned dots;            /* of one clock */
	bool text, doubled;       /* doubled: each dot twice as wide */
	bool blink_on, cursor_on; /* phases */
	uint16_t cursor;
	uint32_t line[DOTS_MAX];
};

/* ---- colours ---- */

static uint32_t dac_colour(const struct vga_registers *r, unsigned index)
{
	const uint8_t *part = r->dac[index & r->pel_mask];
	uint32_t colour = 0;

	for (unsigned i = 0; i < 3; i++) {
		uint8_t value = part[i];

		if (!(r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC))
			value = (uint8_t)((value & 63) << 2 | (value & 63) >> 4);
		colour = colour << 8 | value;
	}
	return colour;
}

/* "Internal Palette" and "Color Select": a 4-bit colour becomes an 8-bit DAC index. */
static unsigned attribute_index(const struct vga_registers *r, unsigned value)
{
	unsigned index = r->attribute[value & r->attribute[AR_PLANES] & 15] & 0x3f;
	unsigned select = r->attribute[AR_COLOUR_SELECT];

	if (r->attribute[AR_MODE] & AR_MODE_P54)
		index = (index & 0x0f) | (select & 3) << 4;
	return index | (select & 0x0c) << 4;
}

static void make_colours(struct frame *frame)
{
	for (unsigned i = 0; i < 256; i++)
		frame->colour[i] = dac_colour(frame->r, i);
	for (unsigned i = 0; i < 16; i++)
		frame->attribute[i] = dac_colour(frame->r, attribute_index(frame->r, i));
}

/* ---- the CRT controller ---- */

static unsigned vertical(const struct vga_registers *r, unsigned index, unsigned bit8, unsigned bit9_register,
                         unsigned bit9)
{
	return r->crtc[index] | (r->crtc[CR_OVERFLOW] >> bit8 & 1u) << 8 |
	       (r->crtc[bit9_register] >> bit9 & 1u) << 9;
}

/* The plane offset that the address counter makes in row scan `row`. */
static uint32_t plane_offset(const struct vga_registers *r, uint32_t counter, unsigned row)
{
	unsigned mode = r->crtc[CR_MODE];
	uint32_t offset;

	if (r->crtc[CR_UNDERLINE] & CRTC_UNDERLINE_DOUBLEWORD)
		offset = counter << 2 | (counter >> 14 & 3);
	else if (mode & CRTC_MODE_BYTE)
		offset = counter;
	else
		offset = counter << 1 | (counter >> (mode & CRTC_MODE_WRAP ? 15 : 13) & 1);
	if (!(mode & CRTC_MODE_ROW_13))
		offset = (offset & ~0x2000u) | (row & 1) << 13;
	if (!(mode & CRTC_MODE_ROW_14))
		offset = (offset & ~0x4000u) | (row >> 1 & 1) << 14;
	return offset & (VGA_PLANE_SIZE - 1);
}

/* The address counter at clock `clock` of a row. */
static uint32_t counter_at(const struct vga_registers *r, uint32_t start, unsigned clock)
{
	if (r->crtc[CR_UNDERLINE] & CRTC_UNDERLINE_COUNT4)
		clock >>= 2;
	else if (r->crtc[CR_MODE] & CRTC_MODE_COUNT2)
		clock >>= 1;
	return (start + clock) & 0xffff;
}

/* "Horizontal PEL Panning": how many dots are pushed out on the left. */
static unsigned panning(const struct frame *frame)
{
	unsigned value = frame->r->attribute[AR_PANNING] & 15;

	if (frame->text && frame->dots == 9)
		return value < 8 ? value + 1 : 0;
	return value & 7;
}

/* ---- one clock ---- */

/* "Character Map Select": where a set of 256 characters begins in plane 2. */
static uint32_t font_offset(unsigned select)
{
	return (select & 3) * 0x4000 + (select & 4 ? 0x2000 : 0);
}

static unsigned character_dots(const struct frame *frame, uint8_t character, uint8_t attribute, unsigned row)
{
	unsigned select = frame->r->sequencer[SEQ_CHARACTER_MAP];
	unsigned font = attribute & 8 ? (select >> 2 & 3) | (select >> 3 & 4) : (select & 3) | (select >> 2 & 4);
	uint32_t offset = font_offset(font) + character * 32u + (row & 31);
	unsigned dots = frame->vram[4 * (offset & (VGA_PLANE_SIZE - 1)) + 2];

	if (frame->dots == 8)
		return dots;
	/* The ninth dot repeats the eighth in the line graphics' characters, and is background in all others. */
	if (frame->r->attribute[AR_MODE] & AR_MODE_LINE_GRAPHICS && (character & 0xe0) == 0xc0)
		return dots << 1 | (dots & 1);
	return dots << 1;
}

static void draw_character(const struct frame *frame, uint32_t *to, uint32_t counter, unsigned row)
{
	const struct vga_registers *r = frame->r;
	const uint8_t *cell = &frame->vram[4 * plane_offset(r, counter, row)];
	uint8_t character = cell[0], attribute = cell[1];
	unsigned dots = character_dots(frame, character, attribute, row);
	unsigned foreground = attribute & 15, background = attribute >> 4;

	if ((attribute & 7) == 1 && row == (r->crtc[CR_UNDERLINE] & 31u))
		dots = 0x1ff;
	if (r->attribute[AR_MODE] & AR_MODE_BLINK) {
		background &= 7;
		if (attribute & 0x80 && !frame->blink_on)
			dots = 0;
	}
	if (frame->cursor_on && counter == frame->cursor && row >= (r->crtc[CR_CURSOR_START] & 31u) &&
	    row <= (r->crtc[CR_CURSOR_END] & 31u))
		dots = 0x1ff;
	for (unsigned i = frame->dots; i-- > 0; dots >>= 1)
		to[i] = frame->attribute[dots & 1 ? foreground : background];
}

/* Eight 4-bit pixels from the four planes' bytes. */
static void draw_planar(const struct frame *frame, uint32_t *to, const uint8_t *byte)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned bit = 7 - i;

		to[i] = frame->attribute[(byte[0] >> bit & 1) | (byte[1] >> bit & 1) << 1 |
		                         (byte[2] >> bit & 1) << 2 | (byte[3] >> bit & 1) << 3];
	}
}

/* "Shift Register Mode": pairs of bits, of planes 0 and 2, then of planes 1 and 3. */
static void draw_interleaved(const struct frame *frame, uint32_t *to, const uint8_t *byte)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned plane = i >> 2, shift = 6 - 2 * (i & 3);

		to[i] = frame->attribute[(byte[plane] >> shift & 3) | (byte[plane + 2] >> shift & 3) << 2];
	}
}

/* 256 colours: four pixels of two dots each. */
static void draw_256(const struct frame *frame, uint32_t *to, const uint8_t *byte)
{
	for (unsigned i = 0; i < 4; i++)
		to[2 * i] = to[2 * i + 1] = frame->colour[byte[i]];
}

static void draw_clock(const struct frame *frame, uint32_t *to, uint32_t counter, unsigned row)
{
	const uint8_t *byte;

	if (frame->text) {
		draw_character(frame, to, counter, row);
		return;
	}
	byte = &frame->vram[4 * plane_offset(frame->r, counter, row)];
	if (frame->r->graphics[GC_MODE] & GC_MODE_256)
		draw_256(frame, to, byte);
	else if (frame->r->graphics[GC_MODE] & GC_MODE_INTERLEAVED)
		draw_interleaved(frame, to, byte);
	else
		draw_planar(frame, to, byte);
}

/* ---- one line, all lines ---- */

/* Spreads `count` dots at frame->line to twice as many, from the right so that none is overwritten before its time. */
static void double_dots(struct frame *frame, const uint32_t *from, unsigned count)
{
	memmove(frame->line, from, count * sizeof(*from));
	for (unsigned i = count; i-- > 0;)
		frame->line[2 * i] = frame->line[2 * i + 1] = frame->line[i];
}

static const uint32_t *draw_line(struct frame *frame, uint32_t start, unsigned row, unsigned pan)
{
	unsigned width = frame->clocks * frame->dots;

	for (unsigned clock = 0; clock <= frame->clocks; clock++)
		draw_clock(frame, &frame->line[clock * frame->dots], counter_at(frame->r, start, clock), row);
	if (!frame->doubled)
		return frame->line + pan;
	double_dots(frame, frame->line + pan, width);
	return frame->line;
}

static void draw_lines(struct frame *frame, struct surface *surface)
{
	const struct vga_registers *r = frame->r;
	unsigned compare = vertical(r, CR_LINE_COMPARE, 4, CR_MAX_SCAN_LINE, 6);
	unsigned last_row = r->crtc[CR_MAX_SCAN_LINE] & 31, row = r->crtc[CR_PRESET_ROW] & 31,
	         pan = panning(frame);
	uint32_t start = (uint32_t)r->crtc[CR_START_HIGH] << 8 | r->crtc[CR_START_LOW];
	bool repeat = r->crtc[CR_MAX_SCAN_LINE] & CRTC_DOUBLE_LINES, second = false;

	start += r->crtc[CR_PRESET_ROW] >> 5 & 3;
	for (unsigned y = 0; y < frame->lines; y++) {
		surface_put_line(surface, y, draw_line(frame, start, row, pan));
		if (y == compare) { /* "Line Compare": the rest shows memory from its start on */
			start = row = 0;
			second = false;
			if (r->attribute[AR_MODE] & AR_MODE_SPLIT_PANNING)
				pan = 0;
			continue;
		}
		second = repeat && !second;
		if (second)
			continue;
		if (row++ == last_row) {
			row = 0;
			start += 2u * r->crtc[CR_OFFSET];
		}
		row &= 31;
	}
}

static void draw_vga(struct frame *frame, uint64_t now_ns, struct surface *surface)
{
	const struct vga_registers *r = frame->r;
	uint64_t frames = now_ns / FRAME_NS;

	frame->text = !(r->graphics[GC_MISC] & GC_MISC_GRAPHICS);
	frame->dots = frame->text && !(r->sequencer[SEQ_CLOCKING] & SEQ_CLOCKING_8_DOTS) ? 9 : 8;
	frame->doubled = r->sequencer[SEQ_CLOCKING] & SEQ_CLOCKING_HALF;
	frame->clocks = r->crtc[CR_HORIZONTAL_END] + 1u;
	if (frame->clocks * frame->dots * (frame->doubled ? 2 : 1) > SURFACE_WIDTH_MAX)
		frame->clocks = SURFACE_WIDTH_MAX / (frame->dots * (frame->doubled ? 2 : 1));
	frame->lines = vertical(r, CR_VERTICAL_END, 1, CR_OVERFLOW, 6) + 1;
	frame->cursor = (uint16_t)(r->crtc[CR_CURSOR_HIGH] << 8 | r->crtc[CR_CURSOR_LOW]);
	/* The cursor blinks every 16 frames, characters half as fast. */
	frame->cursor_on = !(r->crtc[CR_CURSOR_START] & 0x20) && !(frames & 16);
	frame->blink_on = !(frames & 32);
	if (!surface_resize(surface, frame->clocks * frame->dots * (frame->doubled ? 2 : 1), frame->lines))
		draw_lines(frame, surface);
}

/* ---- the display interface's modes ---- */

static uint32_t pixel_16(const uint8_t *from, bool big_endian)
{
	return big_endian ? (uint32_t)(from[0] << 8 | from[1]) : (uint32_t)(from[1] << 8 | from[0]);
}

/* A 5- or 6-bit part of a pixel, with its high bits repeated below. */
static uint32_t widen(uint32_t value, unsigned bits)
{
	value &= (1u << bits) - 1;
	return value << (8 - bits) | value >> (2 * bits - 8);
}

static const uint32_t *linear_line(struct frame *frame, const uint8_t *from, unsigned width)
{
	bool big = frame->r->big_endian;
	uint32_t *to = frame->line, pixel;

	switch (frame->r->dispi[DISPI_BPP]) {
	case 8:
		for (unsigned x = 0; x < width; x++)
			to[x] = frame->colour[from[x]];
		break;
	case 15:
		for (unsigned x = 0; x < width; x++) {
			pixel = pixel_16(from + 2 * x, big);
			to[x] = widen(pixel >> 10, 5) << 16 | widen(pixel >> 5, 5) << 8 | widen(pixel, 5);
		}
		break;
	case 16:
		for (unsigned x = 0; x < width; x++) {
			pixel = pixel_16(from + 2 * x, big);
			to[x] = widen(pixel >> 11, 5) << 16 | widen(pixel >> 5, 6) << 8 | widen(pixel, 5);
		}
		break;
	case 24:
		for (unsigned x = 0; x < width; x++, from += 3)
			to[x] = (uint32_t)from[big ? 0 : 2] << 16 | (uint32_t)from[1] << 8 | from[big ? 2 : 0];
		break;
	default: /* 32 */
		if (!big)
			return (const uint32_t *)from;
		for (unsigned x = 0; x < width; x++, from += 4)
			to[x] = (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
		break;
	}
	return frame->line;
}

static void draw_linear(struct frame *frame, struct surface *surface)
{
	const uint16_t *dispi = frame->r->dispi;
	unsigned width = dispi[DISPI_XRES], height = dispi[DISPI_YRES], bytes = (dispi[DISPI_BPP] + 7u) / 8;
	uint32_t stride = (uint32_t)dispi[DISPI_VIRT_WIDTH] * bytes;
	uint32_t start = dispi[DISPI_Y_OFFSET] * stride + (uint32_t)dispi[DISPI_X_OFFSET] * bytes;

	if (surface_resize(surface, width, height))
		return;
	/* vga_dispi.c lets no picture reach beyond memory. */
	for (unsigned y = 0; y < height && start + (uint64_t)width * bytes <= VGA_VRAM_SIZE;
	     y++, start += stride)
		surface_put_line(surface, y, linear_line(frame, frame->vram + start, width));
}

/* 4 bits per pixel: the planes, as wide as the display interface says. */
static void draw_dispi_planar(struct frame *frame, struct surface *surface)
{
	const uint16_t *dispi = frame->r->dispi;
	unsigned width = dispi[DISPI_XRES], height = dispi[DISPI_YRES];
	uint32_t stride = (dispi[DISPI_VIRT_WIDTH] + 7u) / 8;
	uint32_t start = dispi[DISPI_Y_OFFSET] * stride + dispi[DISPI_X_OFFSET] / 8;

	if (surface_resize(surface, width, height))
		return;
	for (unsigned y = 0; y < height; y++, start += stride) {
		for (unsigned clock = 0; clock <= width / 8; clock++)
			draw_planar(frame, &frame->line[8 * clock],
			            &frame->vram[4 * ((start + clock) & (VGA_VRAM_SIZE / 4 - 1))]);
		surface_put_line(surface, y, frame->line + dispi[DISPI_X_OFFSET] % 8);
	}
}

static void draw_blank(struct frame *frame, struct surface *surface)
{
	memset(frame->line, 0, sizeof(frame->line));
	for (unsigned y = 0; y < surface->height; y++)
		surface_put_line(surface, y, frame->line);
}

void vga_draw(const struct vga_registers *r, const uint8_t *vram, uint64_t now_ns, struct surface *surface)
{
	struct frame frame = {.r = r, .vram = vram};

	make_colours(&frame);
	if (!(r->attribute_index & AR_INDEX_SCREEN_ON) ||
	    r->sequencer[SEQ_CLOCKING] & SEQ_CLOCKING_SCREEN_OFF)
		draw_blank(&frame, surface);
	else if (vga_dispi_is_linear(r))
		draw_linear(&frame, surface);
	else if (r->dispi[DISPI_ENABLE] & DISPI_ENABLED)
		draw_dispi_planar(&frame, surface);
	else
		draw_vga(&frame, now_ns, surface);
}
