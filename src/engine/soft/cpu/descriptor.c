#include "engine/soft/cpu/descriptor.h"

static bool locate(struct cpu *cpu, uint16_t selector, unsigned size, gla_t *address)
{
	uint32_t offset = selector & 0xfff8;

	if (!(selector & 4)) {
		if (offset + size - 1 > cpu->gdtr.limit)
			return false;
		*address = cpu_linear(cpu, cpu->gdtr.base + offset);
		return true;
	}
	const struct segment *ldtr = &cpu->seg[SEG_LDTR];

	if (ldtr->rights & RIGHTS_UNUSABLE || offset + size - 1 > ldtr->limit)
		return false;
	*address = cpu_linear(cpu, ldtr->base + offset);
	return true;
}

bool descriptor_read(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
	if (!locate(cpu, selector, 8, &d->address))
		return false;
	d->raw = quick_read64(cpu, d->address, mem_class_system(cpu));
	d->high = 0;
	return true;
}

bool descriptor_read_system(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
	if (!cpu_is_long(cpu))
		return descriptor_read(cpu, selector, d);
	if (!locate(cpu, selector, 16, &d->address))
		return false;
	d->raw = quick_read64(cpu, d->address, mem_class_system(cpu));
	d->high = quick_read64(cpu, GLA(d->address.v + 8), mem_class_system(cpu));
	return true;
}

void descriptor_parse(const struct cpu *cpu, const struct descriptor *d, uint16_t selector,
                      struct segment *segment)
{
	uint32_t rights = descriptor_rights(d);
	uint32_t limit = (d->raw & 0xffff) | ((d->raw >> 32) & 0xf0000);

	segment->base = ((d->raw >> 16) & 0xffffff) | (d->raw >> 56) << 24;
	if (!(rights & RIGHTS_S) && cpu_is_long(cpu))
		segment->base |= d->high << 32;
	segment->limit = rights & RIGHTS_G ? limit << 12 | 0xfff : limit;
	segment->rights = rights;
	segment->selector = selector;
}

void descriptor_set_accessed(struct cpu *cpu, struct descriptor *d)
{
	if (__builtin_expect(d->raw >> 40 & TYPE_ACCESSED, 1))
		return;
	d->raw |= (uint64_t)TYPE_ACCESSED << 40;
	mem_write_linear(cpu, GLA(d->address.v + 5), 1, (d->raw >> 40) & 0xff, mem_class_system(cpu));
}

void descriptor_set_busy(struct cpu *cpu, const struct descriptor *d, bool busy)
{
	uint64_t byte = (d->raw >> 40) & 0xff;

	mem_write_linear(cpu, GLA(d->address.v + 5), 1, busy ? byte | 2 : byte & ~2ull,
	                 mem_class_system(cpu));
}

void segment_load_real(struct cpu *cpu, unsigned index, uint16_t selector)
{
	struct segment *segment = &cpu->seg[index];

	/* Real-address mode keeps the limit and size that protected mode left ("big real mode"). */
	if (segment->rights & RIGHTS_UNUSABLE)
		segment->limit = 0xffff;
	segment->selector = selector;
	segment->base = (uint64_t)selector << 4;
	segment->rights =
	    (segment->rights & (RIGHTS_DB | RIGHTS_G)) | RIGHTS_P | RIGHTS_S | TYPE_WRITABLE | TYPE_ACCESSED;
}

void segment_load_v86(struct cpu *cpu, unsigned index, uint16_t selector)
{
	cpu->seg[index] = (struct segment){
	    .base = (uint64_t)selector << 4,
	    .limit = 0xffff,
	    .rights = RIGHTS_P | 3 << 5 | RIGHTS_S | TYPE_WRITABLE | TYPE_ACCESSED,
	    .selector = selector,
	};
}

static void load_stack(struct cpu *cpu, uint16_t selector)
{
	struct descriptor d;

	/* SDM, MOV: a null SS is for 64-bit code outside privilege level 3. */
	if (selector_is_null(selector) && cpu_is_64bit(cpu) && cpu->cpl < 3 && (selector & 3) == cpu->cpl) {
		segment_set_null(&cpu->seg[SEG_SS], selector, cpu->cpl);
		return;
	}
	stack_segment_check(cpu, selector, cpu->cpl, VECTOR_GP, &d);
	descriptor_parse(cpu, &d, selector, &cpu->seg[SEG_SS]);
}

static void load_data(struct cpu *cpu, unsigned index, uint16_t selector)
{
	struct descriptor d;
	unsigned rpl = selector & 3;

	if (selector_is_null(selector)) {
		segment_set_null(&cpu->seg[index], selector, 0);
		return;
	}
	if (!descriptor_read(cpu, selector, &d))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	uint32_t rights = descriptor_rights(&d);
	bool code = rights & TYPE_CODE;

	if (!(rights & RIGHTS_S) || (code && !(rights & TYPE_WRITABLE /* readable */)))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!(code && (rights & TYPE_DOWN /* conforming */)) &&
	    (rpl > RIGHTS_DPL(rights) || cpu->cpl > RIGHTS_DPL(rights)))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, selector_error(selector));
	descriptor_set_accessed(cpu, &d);
	descriptor_parse(cpu, &d, selector, &cpu->seg[index]);
}

void segment_load(struct cpu *cpu, unsigned index, uint16_t selector)
{
	if (!(cpu->mode & MODE_PROTECTED)) {
		if (cpu->mode & MODE_V86)
			segment_load_v86(cpu, index, selector);
		else
			segment_load_real(cpu, index, selector);
	} else if (index == SEG_SS) {
		load_stack(cpu, selector);
	} else {
		load_data(cpu, index, selector);
	}
}

void stack_segment_check(struct cpu *cpu, uint16_t selector, unsigned cpl, enum vector vector,
                         struct descriptor *d)
{
	uint32_t error = selector_error(selector);

	if (selector_is_null(selector) || !descriptor_read(cpu, selector, d))
		cpu_raise_error(cpu, vector, error);
	uint32_t rights = descriptor_rights(d);

	if ((selector & 3u) != cpl || RIGHTS_DPL(rights) != cpl || !rights_is_writable_data(rights))
		cpu_raise_error(cpu, vector, error);
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_SS, error);
	descriptor_set_accessed(cpu, d);
}

void segments_drop_privileged(struct cpu *cpu)
{
	static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

	for (unsigned i = 0; i < 4; i++) {
		struct segment *segment = &cpu->seg[data[i]];
		uint32_t rights = segment->rights;
		bool conforming = rights_is_code(rights) && (rights & TYPE_DOWN);

		/*
		 * Only the selector and the rights go; the base stays. KVM emulating a VM exit leaves FS usable with
		 * DPL 0 and a null selector, and 64-bit user code must still find its FS base after IRET.
		 */
		if (!(rights & RIGHTS_UNUSABLE) && !conforming && cpu->cpl > RIGHTS_DPL(rights)) {
			segment->selector = 0;
			segment->rights |= RIGHTS_UNUSABLE;
		}
	}
}

void segment_set_cs(struct cpu *cpu, const struct descriptor *d, uint16_t selector, unsigned cpl)
{
	descriptor_parse(cpu, d, (selector & 0xfffc) | cpl, &cpu->seg[SEG_CS]);
	cpu->cpl = cpl;
}

bool segment_within_limit(const struct segment *segment, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if (segment->rights & RIGHTS_UNUSABLE)
		return false;
	if ((segment->rights & (RIGHTS_S | TYPE_CODE | TYPE_DOWN)) != (RIGHTS_S | TYPE_DOWN))
		return last <= segment->limit;
	return offset > segment->limit && last <= (segment->rights & RIGHTS_DB ? UINT32_MAX : UINT16_MAX);
}

void tss_stack(struct cpu *cpu, unsigned cpl, uint16_t *selector, uint32_t *pointer)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	bool is32 = tr->rights & 8;
	uint32_t offset = is32 ? cpl * 8 + 4 : cpl * 4 + 2;
	gla_t address = cpu_linear(cpu, tr->base + offset);

	if (tr->rights & RIGHTS_UNUSABLE || offset + (is32 ? 5 : 3) > tr->limit)
		cpu_raise_error(cpu, VECTOR_TS, selector_error(tr->selector));
	if (is32) {
		*pointer = mem_read_linear(cpu, address, 4, mem_class_system(cpu));
		*selector = mem_read_linear(cpu, cpu_linear(cpu, address.v + 4), 2, mem_class_system(cpu));
	} else {
		*pointer = mem_read_linear(cpu, address, 2, mem_class_system(cpu));
		*selector = mem_read_linear(cpu, cpu_linear(cpu, address.v + 2), 2, mem_class_system(cpu));
	}
}

uint64_t tss_stack64(struct cpu *cpu, unsigned cpl, unsigned ist)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	uint32_t offset = ist ? ist * 8 + 28 : cpl * 8 + 4;

	if (tr->rights & RIGHTS_UNUSABLE || offset + 7 > tr->limit)
		cpu_raise_error(cpu, VECTOR_TS, selector_error(tr->selector));
	uint64_t pointer = quick_read64(cpu, GLA(tr->base + offset), mem_class_system(cpu));

	if (!is_canonical(pointer))
		cpu_raise_error(cpu, VECTOR_SS, 0);
	return pointer;
}

void stack_present(const struct cpu *cpu, struct stack *stack)
{
	stack->ss = cpu->seg[SEG_SS];
	stack->mask = stack_pointer_mask(cpu);
	stack->sp = cpu->gpr[REG_RSP];
	stack->class = mem_class(cpu);
	stack->error = 0;
	stack->flat64 = cpu_is_64bit(cpu);
}

void stack_new(struct cpu *cpu, struct stack *stack, const struct descriptor *d, uint16_t selector,
               uint64_t sp, unsigned cpl)
{
	descriptor_parse(cpu, d, selector, &stack->ss);
	stack->mask = stack->ss.rights & RIGHTS_DB ? UINT32_MAX : UINT16_MAX;
	stack->sp = sp;
	stack->class = cpl == 3 ? TLB_USER : TLB_SUPER;
	stack->error = selector_error(selector);
	stack->flat64 = false;
}

static gla_t stack_linear(struct cpu *cpu, const struct stack *stack, uint64_t offset, unsigned size)
{
	if (stack->flat64) {
		if (!is_canonical(offset) || !is_canonical(offset + size - 1))
			cpu_raise_error(cpu, VECTOR_SS, stack->error);
		return GLA(offset);
	}
	if (!segment_within_limit(&stack->ss, offset, size))
		cpu_raise_error(cpu, VECTOR_SS, stack->error);
	return GLA((uint32_t)(stack->ss.base + offset));
}

/* True where the pushes do not wrap around the end of a 16- or 32-bit stack, nor around linear memory's. */
static bool is_contiguous(const struct stack *stack, unsigned bytes)
{
	uint64_t low = (stack->sp - bytes) & stack->mask;

	if (low > stack->mask - (bytes - 1))
		return false;
	return stack->flat64 || (uint32_t)(stack->ss.base + low) <= UINT32_MAX - (bytes - 1);
}

void stack_check(struct cpu *cpu, const struct stack *stack, unsigned bytes, unsigned size)
{
	if (is_contiguous(stack, bytes)) {
		gla_t low = stack_linear(cpu, stack, (stack->sp - bytes) & stack->mask, bytes);

		if (quick_write(cpu, low, bytes, stack->class))
			return;
	}
	/* In the order of the pushes: CR2 tells the first that fails. */
	for (unsigned done = size; done <= bytes; done += size) {
		gla_t at = stack_linear(cpu, stack, (stack->sp - done) & stack->mask, size);

		mem_check_write(cpu, at, size, stack->class);
	}
}

void stack_push_frame(struct cpu *cpu, struct stack *stack, const uint64_t *values, unsigned count,
                      unsigned size)
{
	stack_check(cpu, stack, count * size, size);
	for (unsigned i = 0; i < count; i++) {
		stack->sp -= size;
		gla_t at = stack_linear(cpu, stack, stack->sp & stack->mask, size);
		uint64_t *direct = size == 8 ? quick_write(cpu, at, 8, stack->class) : NULL;

		if (direct)
			__builtin_memcpy(direct, &values[i], 8);
		else
			mem_write_linear(cpu, at, size, values[i], stack->class);
	}
}

void stack_commit(struct cpu *cpu, const struct stack *stack)
{
	stack_set_masked(cpu, stack->mask, stack->sp);
}

void code_offset_check(struct cpu *cpu, const struct descriptor *d, uint64_t offset)
{
	struct segment segment;

	if (cpu_is_long(cpu) && (descriptor_rights(d) & RIGHTS_L)) {
		if (!is_canonical(offset))
			cpu_raise_error(cpu, VECTOR_GP, 0);
		return;
	}
	descriptor_parse(cpu, d, 0, &segment);
	if (offset > segment.limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
}
