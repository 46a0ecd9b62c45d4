/*
 * The parts of the VGA: registers and bus (vga.c), the processor's view of its memory (vga_memory.c), the Bochs
 * display interface (vga_dispi.c), the picture (vga_draw.c) and text mode 3 for guests that start without firmware
 * (vga_mode.c). Rules: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem"; FreeVGA for what IBM leaves
 * open. Internal to these files and their tests.
 *
 * Memory: byte p of plane offset o is vram[4 * o + p], so that the four planes are one array of 32-bit words; the
 * linear modes of the display interface see the same array as it is.
 */
#ifndef NESTOR_DEVICE_VGA_H
#define NESTOR_DEVICE_VGA_H

#include <stdbool.h>
#include <stdint.h>

#include "device/pci/pci.h"

#define VGA_VRAM_SIZE   (16u << 20)
#define VGA_PLANE_SIZE  0x10000u /* of the VGA proper */
#define VGA_WINDOW      0xa0000u
#define VGA_WINDOW_SIZE 0x20000u
#define VGA_BANK_SIZE   0x10000u

#define VGA_SEQUENCER_COUNT 5
#define VGA_GRAPHICS_COUNT  9
#define VGA_ATTRIBUTE_COUNT 21
#define VGA_CRTC_COUNT      25

/* Sequencer registers and bits. */
enum { SEQ_RESET, SEQ_CLOCKING, SEQ_MAP_MASK, SEQ_CHARACTER_MAP, SEQ_MEMORY_MODE };
#define SEQ_CLOCKING_8_DOTS     0x01
#define SEQ_CLOCKING_HALF       0x08
#define SEQ_CLOCKING_SCREEN_OFF 0x20
#define SEQ_MEMORY_SEQUENTIAL   0x04 /* not odd/even */
#define SEQ_MEMORY_CHAIN4       0x08

/* Graphics controller. */
enum { GC_SET_RESET, GC_ENABLE_SET_RESET, GC_COLOUR_COMPARE, GC_ROTATE, GC_READ_MAP, GC_MODE, GC_MISC, GC_DONT_CARE,
       GC_BIT_MASK };
#define GC_MODE_WRITE       0x03
#define GC_MODE_READ        0x08
#define GC_MODE_ODD_EVEN    0x10
#define GC_MODE_INTERLEAVED 0x20
#define GC_MODE_256         0x40
#define GC_MISC_GRAPHICS    0x01
#define GC_MISC_CHAIN_ODD   0x02

/* Attribute controller. */
enum { AR_MODE = 0x10, AR_OVERSCAN, AR_PLANES, AR_PANNING, AR_COLOUR_SELECT };
#define AR_MODE_LINE_GRAPHICS 0x04
#define AR_MODE_BLINK         0x08
#define AR_MODE_SPLIT_PANNING 0x20
#define AR_MODE_P54           0x80
#define AR_INDEX_SCREEN_ON    0x20 /* "palette address source" */

/* CRT controller. */
enum { CR_HORIZONTAL_END = 1, CR_OVERFLOW = 7, CR_PRESET_ROW = 8, CR_MAX_SCAN_LINE = 9, CR_CURSOR_START = 10,
       CR_CURSOR_END = 11, CR_START_HIGH = 12, CR_START_LOW = 13, CR_CURSOR_HIGH = 14, CR_CURSOR_LOW = 15,
       CR_RETRACE_END = 17, CR_VERTICAL_END = 18, CR_OFFSET = 19, CR_UNDERLINE = 20, CR_MODE = 23,
       CR_LINE_COMPARE = 24 };

#define MISC_COLOUR  0x01 /* CRTC at 3D4h, not 3B4h */
#define MISC_RAM     0x02
#define MISC_PAGE    0x20 /* odd/even: the low page */

/* The Bochs display interface. */
enum { DISPI_ID, DISPI_XRES, DISPI_YRES, DISPI_BPP, DISPI_ENABLE, DISPI_BANK, DISPI_VIRT_WIDTH, DISPI_VIRT_HEIGHT,
       DISPI_X_OFFSET, DISPI_Y_OFFSET, DISPI_MEMORY_64K, DISPI_COUNT };
#define DISPI_ENABLED  0x01
#define DISPI_CAPS     0x02
#define DISPI_8BIT_DAC 0x20
#define DISPI_LINEAR   0x40
#define DISPI_NO_CLEAR 0x80
#define DISPI_XRES_MAX 2560
#define DISPI_YRES_MAX 1600

/* All that decides how memory becomes a picture: who draws takes a copy under the machine lock. */
struct vga_registers {
	uint8_t sequencer[VGA_SEQUENCER_COUNT], sequencer_index;
	uint8_t graphics[VGA_GRAPHICS_COUNT], graphics_index;
	uint8_t attribute[VGA_ATTRIBUTE_COUNT], attribute_index; /* with AR_INDEX_SCREEN_ON */
	uint8_t crtc[VGA_CRTC_COUNT], crtc_index;
	uint8_t misc, feature, pel_mask;
	uint8_t dac[256][3];
	uint16_t dispi[DISPI_COUNT], dispi_index;
	bool big_endian; /* pixels of more than 8 bits in linear modes */
};

struct vga {
	struct machine *machine;
	struct pci_function pci;
	uint8_t *vram;
	uint8_t *rom;
	uint64_t rom_size; /* of the BAR, a power of two */
	struct vga_registers r;
	uint8_t latch[4];
	bool attribute_is_data; /* 3C0h: the next write is data */
	uint8_t dac_read, dac_write, dac_part, dac_state;
	uint8_t dac_new[2]; /* red and green of an entry that is being written */
};

/* vga_memory.c: a byte access to A0000h + offset, offset < VGA_WINDOW_SIZE. */
uint8_t vga_memory_read(struct vga *vga, uint32_t offset);
void vga_memory_write(struct vga *vga, uint32_t offset, uint8_t value);

/* vga_dispi.c: the registers of the display interface. */
void vga_dispi_reset(struct vga *vga);
uint16_t vga_dispi_read(const struct vga *vga, unsigned index);
void vga_dispi_write(struct vga *vga, unsigned index, uint16_t value);
/* Is a mode of it on that sees memory linearly (8 bits or more per pixel)? */
bool vga_dispi_is_linear(const struct vga_registers *r);

/* vga_draw.c: draws the picture that registers and memory make at the time now_ns (which blinks). */
struct surface;
void vga_draw(const struct vga_registers *r, const uint8_t *vram, uint64_t now_ns, struct surface *surface);

/*
 * vga_mode.c: text mode 3 (80 x 25, 16 colours), a font and a blank screen, as a video BIOS leaves them. font: 256
 * characters of 16 lines.
 */
void vga_set_text_mode(struct vga *vga, const uint8_t *font);
/* The 8 x 16 font in a video BIOS, or NULL. */
const uint8_t *vga_find_font(const uint8_t *rom, uint64_t size);

#endif
