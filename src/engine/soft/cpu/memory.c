/*
 * Guest memory for C code (memory.h). Everything that translated code cannot do inline ends here: segment
 * checks, accesses that cross a page, MMIO, ROM, pages that hold translated code, watched addresses, the
 * APIC-access page.
 *
 * An access that spans two pages translates both before it touches either, so that a fault on the second
 * leaves the first as it was. The lower page is judged first.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/debugger.h"
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory_direct.h"
#include "engine/soft/cpu/paging.h"
#include "engine/soft/cpu/tlb_state.h"

/* ---- segments ---- */

static _Noreturn void segment_fault(struct cpu *cpu, unsigned seg)
{
	cpu_raise_error(cpu, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

/* SDM, Type Checking: what the segment's type forbids, in protected mode. */
static void check_type(struct cpu *cpu, unsigned seg, uint32_t rights, enum mem_access access)
{
	if (rights & RIGHTS_UNUSABLE)
		segment_fault(cpu, seg);
	if (rights & 8) { /* code: never writable, readable by bit 1 */
		if (access == ACCESS_WRITE || (access == ACCESS_READ && !(rights & 2)))
			cpu_raise_error(cpu, VECTOR_GP, 0);
	} else if (access == ACCESS_WRITE && !(rights & 2)) {
		cpu_raise_error(cpu, VECTOR_GP, 0);
	}
}

gla_t mem_linear(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size, enum mem_access access)
{
	const struct segment *segment = &cpu->seg[seg];
	uint64_t gla, last = offset + size - 1;

	if (cpu_is_64bit(cpu)) {
		gla = seg == SEG_FS || seg == SEG_GS ? segment->base + offset : offset;
		if (!is_canonical(gla) || !is_canonical(gla + size - 1))
			segment_fault(cpu, seg);
		return GLA(gla);
	}
	if (cpu->mode & MODE_PROTECTED)
		check_type(cpu, seg, segment->rights, access);
	if ((segment->rights & 0xc) == 4) { /* expand-down data: limit + 1 up to 64K or 4G */
		uint64_t top = segment->rights & RIGHTS_DB ? 0xffffffff : 0xffff;

		if (offset <= segment->limit || last > top)
			segment_fault(cpu, seg);
	} else if (last > segment->limit) {
		/* A flat segment lets an access wrap round 4G. */
		if (segment->limit != 0xffffffff || offset > 0xffffffff)
			segment_fault(cpu, seg);
	}
	return GLA((segment->base + offset) & 0xffffffff);
}

/* Where the next page's part of an access at gla lies; outside 64-bit mode linear addresses wrap at 4G. */
static inline gla_t next_part(const struct cpu *cpu, gla_t gla, unsigned bytes)
{
	uint64_t next = gla.v + bytes;

	if (!cpu_is_64bit(cpu) && gla.v <= 0xffffffff)
		next &= 0xffffffff;
	return GLA(next);
}

/* SDM, Alignment-Check Exception: CPL 3 only, so implicit supervisor accesses never fault. */
static inline void check_alignment(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class)
{
	if ((cpu->mode & MODE_ALIGN) && class == TLB_USER && (gla.v & (size - 1)))
		cpu_raise_error(cpu, VECTOR_AC, 0);
}

/* ---- values ---- */

static inline uint64_t load(const void *host, unsigned size)
{
	uint64_t value = 0;

	switch (size) {
	case 1:
		return *(const uint8_t *)host;
	case 2:
		memcpy(&value, host, 2);
		return value;
	case 4:
		memcpy(&value, host, 4);
		return value;
	case 8:
		memcpy(&value, host, 8);
		return value;
	}
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)((const uint8_t *)host)[i] << 8 * i;
	return value;
}

static inline void store(void *host, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		*(uint8_t *)host = value;
		return;
	case 2:
		memcpy(host, &value, 2);
		return;
	case 4:
		memcpy(host, &value, 4);
		return;
	case 8:
		memcpy(host, &value, 8);
		return;
	}
	for (unsigned i = 0; i < size; i++)
		((uint8_t *)host)[i] = value >> 8 * i;
}

/* ---- physical memory ---- */

/* The greatest access of 1, 2, 4 or 8 bytes, naturally aligned unless `size` is one of these anyhow. */
static inline unsigned mmio_part(uint64_t gpa, unsigned size)
{
	unsigned part = 8;

	if (size <= 8 && !(size & (size - 1)))
		return size;
	while (part > size || (gpa & (part - 1)))
		part /= 2;
	return part;
}

static uint64_t mmio_read(struct cpu *cpu, uint64_t gpa, unsigned size)
{
	if (apic_owns(cpu, GPA(gpa)))
		return apic_mmio_read(cpu, GPA(gpa), size);
	return cpu_host_mmio_read(cpu, GPA(gpa), size);
}

static void mmio_write(struct cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
	if (apic_owns(cpu, GPA(gpa)))
		apic_mmio_write(cpu, GPA(gpa), size, value);
	else
		cpu_host_mmio_write(cpu, GPA(gpa), size, value);
}

/* The RAM or ROM under gpa, unless the APIC lies over it. */
static inline struct ram_window *ram_of(struct cpu *cpu, uint64_t gpa)
{
	struct ram_window *ram = ram_window_of(cpu, tlb_state_of(cpu), gpa);

	if (ram && ((cpu->msr.apic_base ^ gpa) & PAGE_MASK) == 0 && apic_owns(cpu, GPA(gpa)))
		return NULL;
	return ram;
}

/* Both: within one page. */
static void read_physical(struct cpu *cpu, uint64_t gpa, uint8_t *to, unsigned size)
{
	struct ram_window *ram = ram_of(cpu, gpa);

	if (ram) {
		memcpy(to, ram->host + (gpa - ram->gpa), size);
		return;
	}
	while (size) {
		unsigned part = mmio_part(gpa, size);

		store(to, part, mmio_read(cpu, gpa, part));
		to += part;
		gpa += part;
		size -= part;
	}
}

static void notify_code(struct cpu *cpu, uint64_t gpa, unsigned size)
{
	if (bt_code_map(cpu, GPA(gpa & PAGE_MASK)) & code_granules(gpa & ~PAGE_MASK, size))
		bt_code_written(cpu, GPA(gpa), size);
}

static void write_physical(struct cpu *cpu, uint64_t gpa, const uint8_t *from, unsigned size)
{
	struct ram_window *ram = ram_of(cpu, gpa);

	if (ram && !ram->read_only) {
		notify_code(cpu, gpa, size);
		memcpy(ram->host + (gpa - ram->gpa), from, size);
		return;
	}
	while (size) {
		unsigned part = mmio_part(gpa, size);

		mmio_write(cpu, gpa, part, load(from, part));
		from += part;
		gpa += part;
		size -= part;
	}
}

static inline unsigned part_of_page(uint64_t address, unsigned size)
{
	unsigned room = PAGE_SIZE - (address & ~PAGE_MASK);

	return size < room ? size : room;
}

void phys_read_block(struct cpu *cpu, gpa_t gpa, void *to, unsigned size)
{
	for (unsigned done = 0, part; done < size; done += part) {
		part = part_of_page(gpa.v + done, size - done);
		read_physical(cpu, gpa.v + done, (uint8_t *)to + done, part);
	}
}

void phys_write_block(struct cpu *cpu, gpa_t gpa, const void *from, unsigned size)
{
	for (unsigned done = 0, part; done < size; done += part) {
		part = part_of_page(gpa.v + done, size - done);
		write_physical(cpu, gpa.v + done, (const uint8_t *)from + done, part);
	}
}

uint64_t phys_read(struct cpu *cpu, gpa_t gpa, unsigned size)
{
	struct ram_window *ram = ram_of(cpu, gpa.v);
	uint64_t value = 0;

	if (ram && part_of_page(gpa.v, size) == size)
		return load(ram->host + (gpa.v - ram->gpa), size);
	phys_read_block(cpu, gpa, &value, size);
	return value;
}

void phys_write(struct cpu *cpu, gpa_t gpa, unsigned size, uint64_t value)
{
	struct ram_window *ram = ram_of(cpu, gpa.v);

	if (ram && !ram->read_only && part_of_page(gpa.v, size) == size) {
		notify_code(cpu, gpa.v, size);
		store(ram->host + (gpa.v - ram->gpa), size, value);
		return;
	}
	phys_write_block(cpu, gpa, &value, size);
}

/* ---- linear memory ---- */

/* SDM, Debug Registers: data breakpoints are traps, reported after the instruction. */
static void note_watch(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access)
{
	static const uint8_t lengths[] = {1, 2, 8, 4};

	for (unsigned i = 0; i < 4; i++) {
		unsigned control = cpu->dr7 >> (16 + 4 * i);
		unsigned length = lengths[control >> 2 & 3];
		uint64_t address = cpu->dr[i] & ~(uint64_t)(length - 1);

		if (!(cpu->dr7 >> 2 * i & 3) || !(control & 1) ||
		    ((control & 3) == 1 && access != ACCESS_WRITE))
			continue;
		if (address >= gla.v + size || gla.v >= address + length)
			continue;
		cpu->dr6_pending |= 1u << i;
		cpu->debug_trap_pending = true;
	}
}

static inline void check_watch(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access)
{
	if (cpu->dr7 & 0xff)
		note_watch(cpu, gla, size, access);
	if (debugger_watches(cpu))
		debugger_note_access(cpu, gla.v, size, access);
}

/* One page's part of an access, translated. */
struct part {
	uint8_t *host; /* or NULL: */
	gpa_t gpa, l2_gpa;
	bool apic_access;
};

static inline void translate(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access,
                             enum tlb_class class, struct part *part)
{
	const struct tlb_state *state = tlb_state_of(cpu);

	part->host = tlb_access(cpu, gla, size, access, class, &part->gpa);
	if (part->host)
		return;
	part->apic_access = state->slow == SLOW_APIC_ACCESS;
	part->l2_gpa = state->slow_l2_gpa;
}

static void read_part(struct cpu *cpu, const struct part *part, uint8_t *to, unsigned size)
{
	if (part->host) {
		memcpy(to, part->host, size);
		return;
	}
	if (!part->apic_access) {
		read_physical(cpu, part->gpa.v, to, size);
		return;
	}
	for (unsigned done = 0, step; done < size; done += step) {
		uint64_t value = 0;

		step = mmio_part(part->gpa.v + done, size - done);
		if (cpu->virt->apic_access(cpu, GPA(part->l2_gpa.v + done), step, ACCESS_READ, &value))
			store(to + done, step, value);
		else
			read_physical(cpu, part->gpa.v + done, to + done, step);
	}
}

static void write_part(struct cpu *cpu, const struct part *part, const uint8_t *from, unsigned size)
{
	if (part->host) {
		memcpy(part->host, from, size);
		return;
	}
	if (!part->apic_access) {
		write_physical(cpu, part->gpa.v, from, size);
		return;
	}
	for (unsigned done = 0, step; done < size; done += step) {
		uint64_t value;

		step = mmio_part(part->gpa.v + done, size - done);
		value = load(from + done, step);
		if (!cpu->virt->apic_access(cpu, GPA(part->l2_gpa.v + done), step, ACCESS_WRITE, &value))
			write_physical(cpu, part->gpa.v + done, from + done, step);
	}
}

void mem_read_block(struct cpu *cpu, gla_t gla, void *to, unsigned size, enum tlb_class class)
{
	unsigned first = part_of_page(gla.v, size);
	struct part low, high;

	if (!size)
		return;
	translate(cpu, gla, first, ACCESS_READ, class, &low);
	if (first < size)
		translate(cpu, next_part(cpu, gla, first), size - first, ACCESS_READ, class, &high);
	read_part(cpu, &low, to, first);
	if (first < size)
		read_part(cpu, &high, (uint8_t *)to + first, size - first);
	check_watch(cpu, gla, size, ACCESS_READ);
}

void mem_write_block(struct cpu *cpu, gla_t gla, const void *from, unsigned size, enum tlb_class class)
{
	unsigned first = part_of_page(gla.v, size);
	struct part low, high;

	if (!size)
		return;
	translate(cpu, gla, first, ACCESS_WRITE, class, &low);
	if (first < size)
		translate(cpu, next_part(cpu, gla, first), size - first, ACCESS_WRITE, class, &high);
	write_part(cpu, &low, from, first);
	if (first < size)
		write_part(cpu, &high, (const uint8_t *)from + first, size - first);
	check_watch(cpu, gla, size, ACCESS_WRITE);
}

void mem_check_write(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class)
{
	unsigned first = part_of_page(gla.v, size);
	gpa_t gpa;

	if (!size)
		return;
	(void)tlb_access(cpu, gla, first, ACCESS_WRITE, class, &gpa);
	if (first < size)
		(void)tlb_access(cpu, next_part(cpu, gla, first), size - first, ACCESS_WRITE, class, &gpa);
}

uint64_t mem_read_linear(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class)
{
	uint64_t value = 0;

	check_alignment(cpu, gla, size, class);
	if (part_of_page(gla.v, size) == size) {
		gpa_t gpa;
		const void *host = tlb_access(cpu, gla, size, ACCESS_READ, class, &gpa);

		if (host)
			return load(host, size);
	}
	mem_read_block(cpu, gla, &value, size, class);
	return value;
}

void mem_write_linear(struct cpu *cpu, gla_t gla, unsigned size, uint64_t value, enum tlb_class class)
{
	check_alignment(cpu, gla, size, class);
	if (part_of_page(gla.v, size) == size) {
		gpa_t gpa;
		void *host = tlb_access(cpu, gla, size, ACCESS_WRITE, class, &gpa);

		if (host) {
			store(host, size, value);
			return;
		}
	}
	mem_write_block(cpu, gla, &value, size, class);
}

uint64_t mem_read(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size)
{
	return mem_read_linear(cpu, mem_linear(cpu, seg, offset, size, ACCESS_READ), size, mem_class(cpu));
}

void mem_write(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size, uint64_t value)
{
	mem_write_linear(cpu, mem_linear(cpu, seg, offset, size, ACCESS_WRITE), size, value, mem_class(cpu));
}

uint8_t *mem_direct(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access, enum tlb_class class)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct ram_window *ram;
	gpa_t gpa;
	uint8_t *host = tlb_access(cpu, gla, size, access, class, &gpa);

	if (host || state->slow != SLOW_CODE)
		return host;
	ram = ram_window_of(cpu, state, gpa.v);
	if (!ram)
		return NULL;
	bt_code_written(cpu, gpa, size);
	return ram->host + (gpa.v - ram->gpa);
}

bool mem_probe(struct cpu *cpu, gla_t gla, gpa_t *gpa)
{
	return paging_probe(cpu, gla, gpa);
}
