/*
 * The processor's accesses to A0000h … BFFFFh. The graphics controller turns each byte into an operation on up to
 * four planes ("Graphics Controller", "Memory Operations"):
 *
 *   address -> map window -> which planes, and where in them (sequential, odd/even, chain 4)
 *   write   -> write mode 0-3: rotate, set/reset, logical function with the latches, bit mask -> planes of the map mask
 *   read    -> all four planes into the latches -> one plane (read mode 0), or a comparison (read mode 1)
 *
 * In chain 4 mode address bits 1:0 select the plane and the others stay where they are, as in IBM's VGA; in linear
 * modes of the display interface the window at A0000h shows 64 KiB of memory as it is.
 */
#include "device/vga/vga.h"

/* Where an access goes. */
struct target {
	uint32_t offset;  /* in the planes */
	uint8_t planes;   /* that a write may reach */
	uint8_t read_map; /* the plane that read mode 0 returns */
};

/* "Memory Map": GC_MISC bits 3:2. Returns false outside of the window; *offset becomes relative to it. */
static bool window(const struct vga_registers *r, uint32_t *offset)
{
	static const struct {
		uint32_t start, size;
	} windows[] = {{0, 0x20000}, {0, 0x10000}, {0x10000, 0x8000}, {0x18000, 0x8000}};
	unsigned map = r->graphics[GC_MISC] >> 2 & 3;

	if (!(r->misc & MISC_RAM) || *offset - windows[map].start >= windows[map].size)
		return false;
	*offset -= windows[map].start;
	return true;
}

/* Odd/even: the low address bit selects the plane; in the planes another takes its place. */
static uint32_t odd_even_offset(const struct vga_registers *r, uint32_t offset)
{
	bool high;

	if (!(r->graphics[GC_MISC] & GC_MISC_CHAIN_ODD))
		return offset;
	if (r->graphics[GC_MISC] & 0x0c)
		high = !(r->misc & MISC_PAGE);
	else
		high = offset & VGA_PLANE_SIZE; /* the 128 KiB window has a 17th address bit */
	return (offset & ~1u) | high;
}

static struct target locate(const struct vga_registers *r, uint32_t offset)
{
	unsigned low = offset & 3;
	struct target target;

	if (r->sequencer[SEQ_MEMORY_MODE] & SEQ_MEMORY_CHAIN4) {
		target.offset = offset & ~3u;
		target.planes = (uint8_t)(1u << low);
		target.read_map = (uint8_t)low;
	} else if (!(r->sequencer[SEQ_MEMORY_MODE] & SEQ_MEMORY_SEQUENTIAL)) {
		target.offset = odd_even_offset(r, offset);
		target.planes = low & 1 ? 0x0a : 0x05;
		target.read_map = (uint8_t)((r->graphics[GC_READ_MAP] & 2) | (low & 1));
	} else {
		target.offset = offset;
		target.planes = 0x0f;
		target.read_map = r->graphics[GC_READ_MAP] & 3;
	}
	target.planes &= r->sequencer[SEQ_MAP_MASK];
	target.offset &= VGA_PLANE_SIZE - 1;
	if (r->dispi[DISPI_ENABLE] & DISPI_ENABLED) /* 4 bits per pixel: banks of 64 KiB in each plane */
		target.offset += (uint32_t)r->dispi[DISPI_BANK] * VGA_BANK_SIZE;
	target.offset &= VGA_VRAM_SIZE / 4 - 1;
	return target;
}

static uint8_t *linear(struct vga *vga, uint32_t offset)
{
	uint32_t place = (uint32_t)vga->r.dispi[DISPI_BANK] * VGA_BANK_SIZE + offset;

	return &vga->vram[place & (VGA_VRAM_SIZE - 1)];
}

/* Read mode 1: a bit is 1 where all planes that are cared for have the compared colour. */
static uint8_t compare(const struct vga *vga)
{
	uint8_t differ = 0;

	for (unsigned plane = 0; plane < 4; plane++) {
		uint8_t wanted = vga->r.graphics[GC_COLOUR_COMPARE] & 1u << plane ? 0xff : 0;

		if (vga->r.graphics[GC_DONT_CARE] & 1u << plane)
			differ |= vga->latch[plane] ^ wanted;
	}
	return (uint8_t)~differ;
}

uint8_t vga_memory_read(struct vga *vga, uint32_t offset)
{
	struct target target;

	if (!window(&vga->r, &offset))
		return 0xff;
	if (vga_dispi_is_linear(&vga->r))
		return *linear(vga, offset);
	target = locate(&vga->r, offset);
	for (unsigned plane = 0; plane < 4; plane++)
		vga->latch[plane] = vga->vram[4 * target.offset + plane];
	return vga->r.graphics[GC_MODE] & GC_MODE_READ ? compare(vga) : vga->latch[target.read_map];
}

/* "Function Select": what is written, with what the latches hold. */
static uint8_t combine(const struct vga *vga, uint8_t value, uint8_t latch)
{
	switch (vga->r.graphics[GC_ROTATE] >> 3 & 3) {
	case 1:
		return value & latch;
	case 2:
		return value | latch;
	case 3:
		return value ^ latch;
	default:
		return value;
	}
}

/* The byte for one plane before the logical function. */
static uint8_t source(const struct vga *vga, unsigned plane, uint8_t value, uint8_t rotated)
{
	const uint8_t *gc = vga->r.graphics;
	unsigned bit = 1u << plane;

	switch (gc[GC_MODE] & GC_MODE_WRITE) {
	case 0:
		if (!(gc[GC_ENABLE_SET_RESET] & bit))
			return rotated;
		return gc[GC_SET_RESET] & bit ? 0xff : 0;
	case 2:
		return value & bit ? 0xff : 0;
	default: /* 3 */
		return gc[GC_SET_RESET] & bit ? 0xff : 0;
	}
}

void vga_memory_write(struct vga *vga, uint32_t offset, uint8_t value)
{
	const uint8_t *gc = vga->r.graphics;
	unsigned mode = gc[GC_MODE] & GC_MODE_WRITE, turn = gc[GC_ROTATE] & 7;
	uint8_t rotated = (uint8_t)(value >> turn | value << (8 - turn));
	uint8_t mask = mode == 3 ? rotated & gc[GC_BIT_MASK] : gc[GC_BIT_MASK];
	struct target target;

	if (!window(&vga->r, &offset))
		return;
	if (vga_dispi_is_linear(&vga->r)) {
		*linear(vga, offset) = value;
		return;
	}
	target = locate(&vga->r, offset);
	for (unsigned plane = 0; plane < 4; plane++) {
		uint8_t latch = vga->latch[plane], result = latch;

		if (!(target.planes & 1u << plane))
			continue;
		if (mode != 1) {
			result = combine(vga, source(vga, plane, value, rotated), latch);
			result = (uint8_t)((result & mask) | (latch & ~mask));
		}
		vga->vram[4 * target.offset + plane] = result;
	}
}
