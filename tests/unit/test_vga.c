/*
 * The VGA: registers, every memory mode against a model that works bit by bit, pictures by their pixels, the display
 * interface (IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; FreeVGA; Bochs, "VBE Display API").
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/vga/vga.h"
#include "display/display.h"
#include "machine_fixture.h"

static struct machine *machine;
static struct vga *vga;
static struct surface surface;
static uint64_t when; /* of the picture: 0 shows cursor and blinking characters */

static int setup(void **state)
{
	struct machine_config config = {.memory_size = 8u << 20,
	                                .cpu_count = 1,
	                                .clock = ENGINE_CLOCK_DETERMINISTIC,
	                                .vga = MACHINE_VGA_STD};
	struct cpu_model model = {.cpu_count = 1};

	if (machine_create(&machine, &config, &model, &fake_engine)) {
		fprintf(stderr, "%s\n", error_text());
		return -1;
	}
	for (unsigned i = 0; i < machine->device_count; i++)
		if (!strcmp(machine->device[i].name, "vga"))
			vga = machine->device[i].state;
	surface_init(&surface);
	when = 0;
	return vga ? 0 : -1;
}

static int teardown(void **state)
{
	surface_free(&surface);
	machine_destroy(machine);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static uint64_t seed = 0x9e3779b97f4a7c15u;

static unsigned any(unsigned below)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (unsigned)((seed * UINT64_C(0x2545f4914f6cdd1d)) >> 33) % below;
}

static void set(uint16_t port, unsigned index, unsigned value)
{
	out(machine, port, 2, index | value << 8);
}

#define seq(index, value)  set(0x3c4, index, value)
#define gc(index, value)   set(0x3ce, index, value)
#define crtc(index, value) set(0x3d4, index, value)

static unsigned get(uint16_t port, unsigned index)
{
	out(machine, port, 1, index);
	return in(machine, (uint16_t)(port + 1), 1);
}

static void attribute(unsigned index, unsigned value)
{
	in(machine, 0x3da, 1);
	out(machine, 0x3c0, 1, index);
	out(machine, 0x3c0, 1, value);
	out(machine, 0x3c0, 1, 0x20);
}

static void dac(unsigned index, unsigned red, unsigned green, unsigned blue)
{
	out(machine, 0x3c8, 1, index);
	out(machine, 0x3c9, 1, red);
	out(machine, 0x3c9, 1, green);
	out(machine, 0x3c9, 1, blue);
}

static uint8_t plane(unsigned p, uint32_t offset)
{
	return vga->vram[4 * offset + p];
}

static uint32_t pixel(unsigned x, unsigned y)
{
	assert_true(x < surface.width && y < surface.height);
	return surface.pixels[y * surface.width + x] & 0xffffff;
}

static void draw(void)
{
	surface_begin(&surface);
	vga_draw(&vga->r, vga->vram, when, &surface);
}

static void assert_size(unsigned width, unsigned height)
{
	assert_int_equal(surface.width, width);
	assert_int_equal(surface.height, height);
}

/* ---- registers ---- */

static void indexed_registers(void **state)
{
	seq(2, 0xff);
	assert_int_equal(get(0x3c4, 2), 0x0f);
	gc(8, 0xa5);
	assert_int_equal(get(0x3ce, 8), 0xa5);
	gc(9, 0xff);
	assert_int_equal(get(0x3ce, 9), 0);
	crtc(0x0f, 0x34);
	assert_int_equal(get(0x3d4, 0x0f), 0x34);
	assert_int_equal(in(machine, 0x3d4, 1), 0x0f);
}

static void crtc_protection(void **state)
{
	crtc(0x11, 0x00);
	crtc(0, 0x12);
	crtc(7, 0x00);
	crtc(0x11, 0x80);
	crtc(0, 0x34);
	crtc(7, 0xff);
	assert_int_equal(get(0x3d4, 0), 0x12);
	assert_int_equal(get(0x3d4, 7), 0x10);
	crtc(0x0c, 0x56);
	assert_int_equal(get(0x3d4, 0x0c), 0x56);
}

static void attribute_flip_flop(void **state)
{
	in(machine, 0x3da, 1);
	out(machine, 0x3c0, 1, 0x05);
	out(machine, 0x3c0, 1, 0x2a);
	assert_int_equal(in(machine, 0x3c1, 1), 0x2a);
	assert_int_equal(in(machine, 0x3c0, 1), 0x05);
	out(machine, 0x3c0, 1, 0x06); /* an index again; a look at the status starts over */
	in(machine, 0x3da, 1);
	out(machine, 0x3c0, 1, 0x25);
	assert_int_equal(in(machine, 0x3c1, 1), 0x2a);
	assert_int_equal(in(machine, 0x3c0, 1), 0x25);
}

static void colour_and_mono_addresses(void **state)
{
	out(machine, 0x3c2, 1, 0x67);
	assert_int_equal(in(machine, 0x3cc, 1), 0x67);
	crtc(0x0e, 0x11);
	assert_int_equal(in(machine, 0x3b4, 1), 0xff);
	out(machine, 0x3c2, 1, 0x66);
	assert_int_equal(in(machine, 0x3d4, 1), 0xff);
	assert_int_equal(get(0x3b4, 0x0e), 0x11);
	set(0x3b4, 0x0e, 0x22);
	assert_int_equal(get(0x3b4, 0x0e), 0x22);
	assert_int_not_equal(in(machine, 0x3ba, 1), 0xff);
}

static void dac_sequence(void **state)
{
	out(machine, 0x3c8, 1, 255);
	assert_int_equal(in(machine, 0x3c7, 1), 0);
	for (unsigned i = 0; i < 6; i++) /* two entries; the index wraps */
		out(machine, 0x3c9, 1, 0xc0 | (10 + i));
	out(machine, 0x3c9, 1, 1); /* one part of a third changes nothing */
	out(machine, 0x3c7, 1, 255);
	assert_int_equal(in(machine, 0x3c7, 1), 3);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(in(machine, 0x3c9, 1), 10 + i);
	assert_int_equal(vga->r.dac[1][0], 0);
	out(machine, 0x3c6, 1, 0x0f);
	assert_int_equal(in(machine, 0x3c6, 1), 0x0f);
}

/* What programs wait for: the beam is seen in and out of the vertical retrace, and lines begin and end. */
static void retrace(void **state)
{
	unsigned in_retrace = 0, disabled = 0;

	for (unsigned i = 0; i < 4000; i++) {
		unsigned status = in(machine, 0x3da, 1);

		in_retrace += (status & 8) != 0;
		disabled += (status & 1) != 0;
		assert_true(!(status & 8) || status & 1);
		pass(machine, 17000);
	}
	assert_in_range(in_retrace, 300, 600); /* 49 of 449 lines */
	assert_in_range(disabled, 800, 1600);
}

/* ---- memory ---- */

/* The planes by the same rules, written down bit by bit. */
struct model {
	uint8_t plane[4][65536], latch[4];
};

static bool bit(unsigned value, unsigned n)
{
	return value >> n & 1;
}

/* Where the byte at `address` of the window is; returns whether plane p takes part. */
static bool model_place(unsigned address, unsigned p, unsigned *offset)
{
	const struct vga_registers *r = &vga->r;

	if (bit(r->sequencer[4], 3)) {
		*offset = address & 0xfffc;
		return p == address % 4;
	}
	*offset = address & 0xffff;
	if (bit(r->sequencer[4], 2))
		return true;
	if (bit(r->graphics[6], 1)) {
		bool high = r->graphics[6] >> 2 & 3 ? !bit(r->misc, 5) : address >= 65536;

		*offset = (*offset & 0xfffe) | high;
	}
	return p % 2 == address % 2;
}

static void model_write(struct model *model, unsigned address, unsigned value)
{
	const uint8_t *g = vga->r.graphics;
	unsigned mode = g[5] & 3, offset;

	for (unsigned p = 0; p < 4; p++) {
		uint8_t result = 0;

		if (!model_place(address, p, &offset) || !bit(vga->r.sequencer[2], p))
			continue;
		for (unsigned n = 0; n < 8; n++) {
			bool rotated = bit(value, (n + (g[3] & 7)) % 8), latch = bit(model->latch[p], n);
			bool from = mode == 0 ? (bit(g[1], p) ? bit(g[0], p) : rotated)
			            : mode == 2 ? bit(value, p) : bit(g[0], p);
			bool change = mode == 3 ? rotated && bit(g[8], n) : bit(g[8], n);
			unsigned function = g[3] >> 3 & 3;
			bool done = function == 1 ? from && latch
			            : function == 2 ? from || latch : function == 3 ? from != latch : from;

			result |= (uint8_t)((mode == 1 || !change ? latch : done) << n);
		}
		model->plane[p][offset] = result;
	}
}

static unsigned model_read(struct model *model, unsigned address)
{
	const struct vga_registers *r = &vga->r;
	unsigned offset, selected = r->graphics[4] & 3, result = 0;

	model_place(address, 0, &offset);
	for (unsigned p = 0; p < 4; p++)
		model->latch[p] = model->plane[p][offset];
	if (bit(r->graphics[5], 3)) {
		for (unsigned n = 0; n < 8; n++) {
			bool same = true;

			for (unsigned p = 0; p < 4; p++)
				if (bit(r->graphics[7], p) &&
				    bit(model->latch[p], n) != bit(r->graphics[2], p))
					same = false;
			result |= (unsigned)same << n;
		}
		return result;
	}
	if (bit(r->sequencer[4], 3))
		selected = address % 4;
	else if (!bit(r->sequencer[4], 2))
		selected = (selected & 2) | address % 2;
	return model->latch[selected];
}

static void random_mode(void)
{
	seq(2, any(2) ? 15 : any(16));
	seq(4, any(8) << 1);
	gc(0, any(16));
	gc(1, any(2) ? 0 : any(16));
	gc(2, any(16));
	gc(3, any(2) ? 0 : any(32));
	gc(4, any(4));
	gc(5, any(4) | any(2) << 3 | any(2) << 4);
	gc(6, any(16));
	gc(7, any(16));
	gc(8, any(2) ? 0xff : any(256));
	out(machine, 0x3c2, 1, 0x43 | any(2) << 5);
}

static void memory_modes(void **state)
{
	static const unsigned start[] = {0xa0000, 0xa0000, 0xb0000, 0xb8000},
	                      size[] = {0x20000, 0x10000, 0x8000, 0x8000};
	static struct model model;

	memset(&model, 0, sizeof(model));
	memset(vga->vram, 0, VGA_VRAM_SIZE);
	memset(vga->latch, 0, sizeof(vga->latch));
	for (unsigned i = 0; i < 3000; i++) {
		unsigned map;

		random_mode();
		map = vga->r.graphics[6] >> 2 & 3;
		for (unsigned j = 0; j < 40; j++) {
			unsigned at = any(4) ? any(64) : any(size[map]), value = any(256);

			if (any(2)) {
				store(machine, start[map] + at, 1, value);
				model_write(&model, at, value);
			} else {
				assert_int_equal(load(machine, start[map] + at, 1), model_read(&model, at));
			}
		}
		assert_memory_equal(vga->latch, model.latch, 4);
	}
	for (unsigned p = 0; p < 4; p++)
		for (unsigned offset = 0; offset < 65536; offset++)
			if (plane(p, offset) != model.plane[p][offset])
				fail_msg("plane %u at %x: %x, not %x", p, offset, plane(p, offset),
				         model.plane[p][offset]);
}

static void windows(void **state)
{
	static const unsigned start[] = {0xa0000, 0xa0000, 0xb0000, 0xb8000},
	                      end[] = {0xc0000, 0xb0000, 0xb8000, 0xc0000};

	seq(4, 0x06);
	seq(2, 0x01);
	gc(5, 0);
	for (unsigned map = 0; map < 4; map++) {
		gc(6, map << 2);
		store(machine, start[map] + 1, 1, 0x77);
		assert_int_equal(plane(0, 1), 0x77);
		assert_int_equal(load(machine, start[map] + 1, 1), 0x77);
		for (unsigned at = 0xa0000; at < 0xc0000; at += 0x8000)
			if (at < start[map] || at >= end[map]) {
				store(machine, at + 1, 1, 0x11);
				assert_int_equal(load(machine, at + 1, 1), 0xff);
			}
		assert_int_equal(plane(0, 1), 0x77);
	}
	out(machine, 0x3c2, 1, 0x65); /* "RAM Enable" off */
	assert_int_equal(load(machine, 0xb8001, 1), 0xff);
}

/* What everyone relies on: characters and attributes of text mode, wide accesses. */
static void text_mode_memory(void **state)
{
	store(machine, 0xb8000, 4, 0x07420741);
	assert_int_equal(load(machine, 0xb8000, 4), 0x07420741);
	assert_int_equal(plane(0, 0), 'A');
	assert_int_equal(plane(1, 0), 7);
	assert_int_equal(plane(0, 2), 'B');
	assert_int_equal(plane(1, 2), 7);
}

/* ---- text ---- */

#define GREY  0xaaaaaa
#define WHITE 0xffffff
#define BLUE  0x0000aa
#define RED   0xaa0000

static void put_cell(unsigned column, unsigned row, unsigned character, unsigned colours)
{
	store(machine, 0xb8000 + 2 * (80 * row + column), 2, character | colours << 8);
}

/* One line of a character in a font; the fonts are in plane 2. */
static void put_glyph(uint32_t font, unsigned character, unsigned line, uint8_t dots)
{
	vga->vram[4 * (font + 32 * character + line) + 2] = dots;
}

static void no_cursor(void)
{
	crtc(0x0a, 0x20);
}

static void text_by_pixels(void **state)
{
	no_cursor();
	put_glyph(0, 'A', 0, 0x81);
	put_glyph(0, 'A', 15, 0x01);
	put_cell(0, 0, 'A', 0x1f);
	put_cell(79, 24, 'A', 0x74);
	draw();
	assert_size(720, 400);
	assert_int_equal(pixel(0, 0), WHITE);
	assert_int_equal(pixel(1, 0), BLUE);
	assert_int_equal(pixel(7, 0), WHITE);
	assert_int_equal(pixel(8, 0), BLUE); /* the ninth dot is background */
	assert_int_equal(pixel(9, 0), 0);
	assert_int_equal(pixel(7, 15), WHITE);
	assert_int_equal(pixel(0, 15), BLUE);
	assert_int_equal(pixel(711, 384), RED);
	assert_int_equal(pixel(712, 384), GREY);
	assert_int_equal(pixel(719, 384), GREY);
}

static void line_graphics_join(void **state)
{
	no_cursor();
	put_glyph(0, 0xc4, 3, 0xff);
	put_glyph(0, 0xe0, 3, 0xff);
	put_cell(0, 0, 0xc4, 0x07);
	put_cell(1, 0, 0xe0, 0x07);
	draw();
	assert_int_equal(pixel(8, 3), GREY);
	assert_int_equal(pixel(17, 3), 0);
	attribute(0x10, 0x08); /* "Enable Line Graphics" off */
	draw();
	assert_int_equal(pixel(8, 3), 0);
}

static void cursor_and_blinking(void **state)
{
	put_glyph(0, 'B', 0, 0xff);
	put_cell(2, 1, ' ', 0x07);
	put_cell(3, 1, 'B', 0x87);
	crtc(0x0e, 0);
	crtc(0x0f, 82);
	crtc(0x0a, 13);
	crtc(0x0b, 14);
	draw();
	assert_int_equal(pixel(18, 16 + 12), 0);
	assert_int_equal(pixel(18, 16 + 13), GREY);
	assert_int_equal(pixel(26, 16 + 14), GREY);
	assert_int_equal(pixel(18, 16 + 15), 0);
	assert_int_equal(pixel(27, 16), GREY);
	when = 1000000000u / 70 * 17;
	draw();
	assert_int_equal(pixel(18, 16 + 13), 0);
	assert_int_equal(pixel(27, 16), GREY);
	when = 1000000000u / 70 * 33;
	draw();
	assert_int_equal(pixel(18, 16 + 13), GREY);
	assert_int_equal(pixel(27, 16), 0); /* the character has gone, its background is dark */
	attribute(0x10, 0x04);              /* blinking off: bright backgrounds instead */
	draw();
	assert_int_equal(pixel(27, 16), GREY);
	assert_int_equal(pixel(27, 17), 0x555555);
}

static void underline(void **state)
{
	no_cursor();
	put_cell(0, 0, ' ', 0x01);
	put_cell(1, 0, ' ', 0x07);
	crtc(0x14, 12);
	draw();
	assert_int_equal(pixel(0, 12), BLUE);
	assert_int_equal(pixel(8, 12), BLUE);
	assert_int_equal(pixel(9, 12), 0);
	assert_int_equal(pixel(0, 11), 0);
}

/* Bit 3 of the attribute takes characters from another map: 512 of them. */
static void two_fonts(void **state)
{
	no_cursor();
	put_glyph(0, 'C', 0, 0x80);
	put_glyph(0x6000, 'C', 0, 0x40); /* map 5 */
	put_cell(0, 0, 'C', 0x07);
	put_cell(1, 0, 'C', 0x0f);
	seq(3, 0x24); /* map A: 5 (bits 5, 3:2 = 1, 01), map B: 0 */
	draw();
	assert_int_equal(pixel(0, 0), GREY);
	assert_int_equal(pixel(9, 0), 0);
	assert_int_equal(pixel(10, 0), WHITE);
}

static void start_panning_and_split(void **state)
{
	no_cursor();
	put_glyph(0, 'D', 0, 0xff);
	put_glyph(0, 'D', 5, 0xff);
	put_cell(1, 1, 'D', 0x07);
	crtc(0x0c, 0);
	crtc(0x0d, 81); /* the cell above is now the first one */
	draw();
	assert_int_equal(pixel(0, 0), GREY);
	crtc(0x08, 5); /* from its sixth line on */
	draw();
	assert_int_equal(pixel(0, 0), GREY);
	assert_int_equal(pixel(0, 1), 0);
	crtc(0x08, 0);
	attribute(0x13, 3); /* four dots to the left: 8 is none, 0 one */
	draw();
	assert_int_equal(pixel(3, 0), GREY);
	assert_int_equal(pixel(4, 0), 0);
	attribute(0x13, 8);
	crtc(0x18, 99); /* from line 100 on memory from its start */
	crtc(0x07, get(0x3d4, 7) & ~0x10u);
	crtc(0x09, get(0x3d4, 9) & ~0x40u);
	draw();
	assert_int_equal(pixel(0, 0), GREY);
	assert_int_equal(pixel(9, 100 + 16), GREY);
	assert_int_equal(pixel(0, 100), 0);
}

static void forty_columns_are_wide(void **state)
{
	no_cursor();
	put_glyph(0, 'E', 0, 0x80);
	put_cell(0, 0, 'E', 0x07);
	crtc(0x11, 0x0e);
	crtc(0x01, 39);
	seq(1, 0x08);
	draw();
	assert_size(720, 400);
	assert_int_equal(pixel(0, 0), GREY);
	assert_int_equal(pixel(1, 0), GREY);
	assert_int_equal(pixel(2, 0), 0);
	seq(1, 0x01);
	draw();
	assert_size(320, 400);
}

static void blank_screen(void **state)
{
	put_glyph(0, 'F', 0, 0xff);
	put_cell(0, 0, 'F', 0x07);
	draw();
	assert_int_equal(pixel(0, 0), GREY);
	seq(1, 0x20);
	draw();
	assert_int_equal(pixel(0, 0), 0);
	seq(1, 0x00);
	draw();
	assert_int_equal(pixel(0, 0), GREY);
	in(machine, 0x3da, 1);
	out(machine, 0x3c0, 1, 0x00); /* "Palette Address Source" */
	draw();
	assert_int_equal(pixel(0, 0), 0);
}

/* ---- graphics ---- */

/* Mode 12h: 640 x 480, four planes. */
static void mode_12(void)
{
	static const uint8_t registers[] = {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00,
	                                    0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xea, 0x0c,
	                                    0xdf, 0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff};

	crtc(0x11, 0);
	for (unsigned i = 0; i < sizeof(registers); i++)
		crtc(i, registers[i]);
	seq(1, 0x01);
	seq(2, 0x0f);
	seq(4, 0x06);
	gc(5, 0x00);
	gc(6, 0x05);
	attribute(0x10, 0x01);
	attribute(0x13, 0x00);
	memset(vga->vram, 0, 4 * VGA_PLANE_SIZE);
}

static void planar_pixels(void **state)
{
	mode_12();
	seq(2, 0x04);
	store(machine, 0xa0000 + 80 * 479 + 79, 1, 0x01);
	seq(2, 0x01);
	store(machine, 0xa0000, 1, 0x80);
	draw();
	assert_size(640, 480);
	assert_int_equal(pixel(639, 479), RED);
	assert_int_equal(pixel(0, 0), BLUE);
	assert_int_equal(pixel(1, 0), 0);
	attribute(0x13, 0x03);
	store(machine, 0xa0000 + 80, 1, 0x10);
	draw();
	assert_int_equal(pixel(0, 1), BLUE); /* pixel 3, three to the left */
	attribute(0x12, 0x0e); /* plane 0 off */
	draw();
	assert_int_equal(pixel(0, 1), 0);
}

/* Mode 13h: 320 x 200 in a chain of four planes; each pixel is two dots and two lines. */
static void chained_pixels(void **state)
{
	mode_12();
	crtc(0x11, 0);
	crtc(0x07, 0x1f);
	crtc(0x09, 0x41);
	crtc(0x12, 0x8f);
	crtc(0x14, 0x40);
	crtc(0x17, 0xa3);
	seq(4, 0x0e);
	seq(2, 0x0f);
	gc(5, 0x40);
	attribute(0x10, 0x41);
	dac(200, 63, 0, 0);
	dac(201, 0, 32, 0);
	store(machine, 0xa0000, 2, 0xc8 | 0xc9 << 8);
	store(machine, 0xa0000 + 320 * 199 + 319, 1, 200);
	draw();
	assert_size(640, 400);
	assert_int_equal(pixel(0, 0), 0xff0000);
	assert_int_equal(pixel(1, 1), 0xff0000);
	assert_int_equal(pixel(2, 0), 0x008200);
	assert_int_equal(pixel(3, 1), 0x008200);
	assert_int_equal(pixel(4, 0), 0);
	assert_int_equal(pixel(639, 399), 0xff0000);
	out(machine, 0x3c6, 1, 0x00);
	dac(0, 0, 0, 63);
	draw();
	assert_int_equal(pixel(0, 0), 0x0000ff); /* the PEL mask */
	/* Unchained ("mode X"): byte mode, each offset is four pixels. */
	out(machine, 0x3c6, 1, 0xff);
	seq(4, 0x06);
	crtc(0x14, 0x00);
	crtc(0x17, 0xe3);
	memset(vga->vram, 0, 4 * VGA_PLANE_SIZE);
	seq(2, 0x08);
	store(machine, 0xa0000 + 80, 1, 200);
	draw();
	assert_int_equal(pixel(6, 2), 0xff0000);
	assert_int_equal(pixel(8, 2), 0x0000ff);
}

/* Modes 4 and 6: rows alternate between two halves of memory; four colours come from pairs of bits. */
static void cga_pixels(void **state)
{
	mode_12();
	crtc(0x11, 0);
	crtc(0x07, 0x1f);
	crtc(0x09, 0xc1); /* two row scans, each twice */
	crtc(0x12, 0x8f);
	crtc(0x17, 0xc2); /* byte mode, address bit 13 is the row scan's */
	seq(4, 0x06);
	seq(2, 0x01);
	gc(6, 0x0d);
	store(machine, 0xb8000, 1, 0x80);
	store(machine, 0xba000, 1, 0x40);
	draw();
	assert_size(640, 400);
	assert_int_equal(pixel(0, 0), BLUE);
	assert_int_equal(pixel(0, 1), BLUE);
	assert_int_equal(pixel(0, 2), 0);
	assert_int_equal(pixel(1, 3), BLUE);
	/* Mode 4: odd/even memory in word mode, the shift registers interleaved, half the dot clock. */
	memset(vga->vram, 0, 4 * VGA_PLANE_SIZE);
	crtc(0x01, 39);
	crtc(0x13, 0x14);
	crtc(0x17, 0xa2);
	seq(1, 0x09);
	seq(2, 0x03);
	seq(4, 0x02);
	gc(5, 0x30);
	gc(6, 0x0f);
	store(machine, 0xb8000, 2, 0x1b | 0x40 << 8); /* 0 1 2 3, then 1 */
	draw();
	assert_size(640, 400);
	assert_int_equal(pixel(0, 0), 0);
	assert_int_equal(pixel(2, 0), BLUE);
	assert_int_equal(pixel(4, 0), 0x00aa00);
	assert_int_equal(pixel(6, 0), 0x00aaaa);
	assert_int_equal(pixel(8, 0), BLUE);
}

static void attribute_colours(void **state)
{
	no_cursor();
	put_glyph(0, 'G', 0, 0xff);
	put_cell(0, 0, 'G', 0x02);
	attribute(2, 0x3f);
	draw();
	assert_int_equal(pixel(0, 0), WHITE); /* entry 63 */
	dac(0xff, 63, 0, 0);
	attribute(0x14, 0x0c); /* bits 7:6 */
	draw();
	assert_int_equal(pixel(0, 0), 0xff0000);
	dac(0xdf, 0, 63, 0);
	attribute(0x14, 0x0d);
	attribute(0x10, 0x8c); /* bits 5:4 from the colour select register too */
	draw();
	assert_int_equal(pixel(0, 0), 0x00ff00);
}

/* ---- the display interface ---- */

static void dispi(unsigned index, unsigned value)
{
	out(machine, 0x1ce, 2, index);
	out(machine, 0x1cf, 2, value);
}

static unsigned dispi_get(unsigned index)
{
	out(machine, 0x1ce, 2, index);
	return in(machine, 0x1cf, 2);
}

static void dispi_mode(unsigned width, unsigned height, unsigned bpp, unsigned flags)
{
	dispi(4, 0);
	dispi(1, width);
	dispi(2, height);
	dispi(3, bpp);
	dispi(4, flags);
	in(machine, 0x3da, 1);
	out(machine, 0x3c0, 1, 0x20);
}

static void dispi_identity(void **state)
{
	assert_int_equal(dispi_get(0), 0xb0c5);
	dispi(0, 0xb0c2);
	assert_int_equal(dispi_get(0), 0xb0c2);
	dispi(0, 0x1234);
	assert_int_equal(dispi_get(0), 0xb0c2);
	assert_int_equal(dispi_get(10), 256);
	assert_int_equal(dispi_get(11), 0);
	dispi_mode(640, 480, 32, 0x02);
	assert_int_equal(dispi_get(1), 2560);
	assert_int_equal(dispi_get(2), 1600);
	assert_int_equal(dispi_get(3), 32);
	dispi(4, 0);
	assert_int_equal(dispi_get(1), 640);
	assert_int_equal(in(machine, 0x1ce, 1), 0xff); /* words only */
}

static void dispi_limits(void **state)
{
	dispi_mode(2561, 1601, 12, 0);
	assert_int_not_equal(dispi_get(1), 2561);
	assert_int_not_equal(dispi_get(3), 12);
	dispi_mode(2560, 1600, 32, 0x41);
	assert_int_equal(dispi_get(4), 0x41);
	assert_int_equal(dispi_get(7), 1638); /* as many lines as fit */
	draw();
	assert_size(2560, 1600);
	dispi(9, 5000);
	assert_int_equal(dispi_get(9), 38);
	dispi(8, 1);
	assert_int_equal(dispi_get(8), 0);
	dispi(6, 4000); /* 4000 * 4 * 1600 is more than there is */
	assert_int_equal(dispi_get(6), 2560);
	draw();
	dispi(5, 255);
	assert_int_equal(dispi_get(5), 255);
	dispi(5, 256);
	assert_int_equal(dispi_get(5), 255);
	dispi(4, 0);
	assert_int_equal(dispi_get(5), 0);
}

static void dispi_clears(void **state)
{
	vga->vram[100] = 1;
	dispi_mode(320, 200, 8, 0xc1);
	assert_int_equal(vga->vram[100], 1);
	dispi_mode(320, 200, 8, 0x41);
	assert_int_equal(vga->vram[100], 0);
}

static void linear_depths(void **state)
{
	static const struct {
		unsigned bpp;
		uint8_t bytes[4];
		uint32_t colour;
	} cases[] = {{8, {7}, 0xaa5500},
	             {15, {0x1f, 0x7c}, 0xff00ff},
	             {16, {0xe0, 0x07}, 0x00ff00},
	             {16, {0x01, 0x08}, 0x080008},
	             {24, {0x12, 0x34, 0x56}, 0x563412},
	             {32, {0x12, 0x34, 0x56, 0x99}, 0x563412}};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned bytes = (cases[i].bpp + 7) / 8;

		dispi_mode(101, 50, cases[i].bpp, 0x41);
		dac(7, 0x2a, 0x15, 0);
		memcpy(vga->vram + bytes * (101 * 49 + 100), cases[i].bytes, bytes);
		draw();
		assert_size(101, 50);
		assert_int_equal(pixel(100, 49), cases[i].colour);
		assert_int_equal(pixel(99, 49), pixel(0, 0));
		memcpy(vga->vram + bytes * (300 * 20 + 100), cases[i].bytes, bytes); /* of a larger picture */
		dispi(6, 300);
		dispi(8, 90);
		dispi(9, 15);
		draw();
		assert_int_equal(pixel(10, 5), cases[i].colour);
	}
}

static void eight_bit_dac(void **state)
{
	dispi_mode(16, 16, 8, 0x61);
	dac(0, 0x81, 0x42, 0x03);
	draw();
	assert_int_equal(pixel(0, 0), 0x814203);
	out(machine, 0x3c7, 1, 0);
	assert_int_equal(in(machine, 0x3c9, 1), 0x81);
}

/* The window at A0000h, in banks: as memory is with 8 bits and more, in planes with 4. */
static void banks(void **state)
{
	dispi_mode(1024, 768, 8, 0x01);
	gc(6, 0x05);
	dispi(5, 3);
	store(machine, 0xa0010, 4, 0x44332211);
	assert_int_equal(vga->vram[0x30010], 0x11);
	assert_int_equal(load(machine, 0xa0013, 1), 0x44);
	dispi_mode(1024, 768, 4, 0x01);
	seq(4, 0x06);
	seq(2, 0x04);
	gc(5, 0);
	gc(8, 0xff);
	dispi(5, 1);
	store(machine, 0xa0000 + 98303 - 65536, 1, 0x01); /* the last byte of the last line */
	draw();
	assert_size(1024, 768);
	assert_int_equal(pixel(1023, 767), RED);
	assert_int_equal(pixel(1022, 767), 0);
}

static void memory_bar(void)
{
	/* BAR 2 at C1000000h, memory decoding on. */
	out(machine, 0xcf8, 4, 0x80000818);
	out(machine, 0xcfc, 4, 0xc1000000);
	out(machine, 0xcf8, 4, 0x80000804);
	out(machine, 0xcfc, 4, 2);
}

static void registers_in_memory(void **state)
{
	memory_bar();
	assert_int_equal(load(machine, 0xc1000500, 2), 0xb0c5);
	store(machine, 0xc1000502, 2, 800);
	store(machine, 0xc1000504, 4, 600 | 32 << 16);
	assert_int_equal(dispi_get(1), 800);
	assert_int_equal(load(machine, 0xc1000504, 4), 600 | 32 << 16);
	store(machine, 0xc1000508, 2, 0x41);
	store(machine, 0xc1000400, 1, 0x20); /* 3C0h */
	store(machine, 0xc1000404, 2, 0x0302); /* 3C4h: index and data */
	assert_int_equal(get(0x3c4, 2), 3);
	assert_int_equal(load(machine, 0xc1000600, 4), 8);
	assert_int_equal(load(machine, 0xc1000604, 4), 0x1e1e1e1e);
	store(machine, 0xc1000604, 4, 0xbebebebe);
	assert_int_equal(load(machine, 0xc1000604, 4), 0xbebebebe);
	vga->vram[1] = 0x12;
	vga->vram[2] = 0x34;
	vga->vram[3] = 0x56;
	draw();
	assert_size(800, 600);
	assert_int_equal(pixel(0, 0), 0x123456);
	assert_int_equal(load(machine, 0xc1000ffc, 4), 0xffffffff);
}

static void is_a_vga_on_pci(void **state)
{
	out(machine, 0xcf8, 4, 0x80000800);
	assert_int_equal(in(machine, 0xcfc, 4), 0x11111234);
	out(machine, 0xcf8, 4, 0x80000808);
	assert_int_equal(in(machine, 0xcfc, 4), 0x03000002);
	out(machine, 0xcf8, 4, 0x80000810);
	out(machine, 0xcfc, 4, 0xffffffff);
	assert_int_equal(in(machine, 0xcfc, 4), 0xff000008);
	out(machine, 0xcf8, 4, 0x80000830);
	out(machine, 0xcfc, 4, 0xfffffffe);
	assert_int_equal(in(machine, 0xcfc, 4), 0xffff0000); /* 64 KiB of video BIOS */
	assert_int_equal(vga->rom[0] | vga->rom[1] << 8, 0xaa55);
}

/* ---- the display ---- */

static void only_changes_count(void **state)
{
	const struct surface *shown;
	uint64_t before;

	no_cursor();
	shown = display_acquire(machine->display);
	before = shown->time;
	display_release(machine->display);
	put_glyph(0, 0, 2, 0xff); /* a character without other dots */
	put_cell(0, 0, 0, 0x07);
	shown = display_acquire(machine->display);
	assert_int_equal(shown->width, 720);
	for (unsigned y = 0; y < shown->height; y++)
		assert_int_equal(shown->changed[y] > before, y == 2);
	display_release(machine->display);
}

static void reset_shows_text_mode(void **state)
{
	dispi_mode(640, 480, 32, 0x41);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	draw();
	assert_size(720, 400);
	put_cell(0, 0, 0xdb, 0x07); /* the font is there */
	draw();
	for (unsigned y = 0; y < 16; y++)
		assert_int_equal(pixel(0, y), GREY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(indexed_registers),
	    TEST(crtc_protection),
	    TEST(attribute_flip_flop),
	    TEST(colour_and_mono_addresses),
	    TEST(dac_sequence),
	    TEST(retrace),
	    TEST(memory_modes),
	    TEST(windows),
	    TEST(text_mode_memory),
	    TEST(text_by_pixels),
	    TEST(line_graphics_join),
	    TEST(cursor_and_blinking),
	    TEST(underline),
	    TEST(two_fonts),
	    TEST(start_panning_and_split),
	    TEST(forty_columns_are_wide),
	    TEST(blank_screen),
	    TEST(planar_pixels),
	    TEST(chained_pixels),
	    TEST(cga_pixels),
	    TEST(attribute_colours),
	    TEST(dispi_identity),
	    TEST(dispi_limits),
	    TEST(dispi_clears),
	    TEST(linear_depths),
	    TEST(eight_bit_dac),
	    TEST(banks),
	    TEST(registers_in_memory),
	    TEST(is_a_vga_on_pci),
	    TEST(only_changes_count),
	    TEST(reset_shows_text_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
