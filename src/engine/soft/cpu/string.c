/*
 * MOVS, STOS, LODS, SCAS and CMPS in all their forms.
 *
 * One element is an ordinary read or write. A repeated instruction goes forward in chunks: as many elements as lie
 * in one page at either end, within the segments' limits and before an index register wraps. A chunk is translated as a whole and then done
 * with the host's own string instruction of the same element size, so that overlapping operands come out as
 * on the processor, element by element. The registers are brought up to date after every chunk; a fault
 * therefore always finds exactly what was done before it. Elements that are not so simple (crossing a page,
 * MMIO, watched, beyond a limit) are done singly through mem_read and mem_write, which also raise the exact
 * fault.
 *
 * Interrupts get in between chunks: after WORK_LIMIT bytes cpu->kick is looked at, and where it is set the
 * instruction ends with next_rip = rip, to go on later with what is left.
 */
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/memory_direct.h"
#include "engine/soft/cpu/ops.h"

#define WORK_LIMIT 65536u
#define SLOW_WORK  1024u /* what an element done singly counts for: it may be a device access */

struct string {
	struct cpu *cpu;
	unsigned size;   /* of an element */
	unsigned source; /* segment of [rSI] */
	uint64_t mask;   /* of the address size */
	int64_t step;    /* size or -size */
	uint64_t si, di;
	uint64_t count; /* elements left; 1 without a prefix */
	bool repeat;
	enum tlb_class class;
	uint64_t work; /* bytes since the last look at cpu->kick */
};

static inline void begin(struct cpu *cpu, const struct insn *insn, struct string *s)
{
	s->cpu = cpu;
	s->size = insn->opcode & 1 ? insn->operand_size : 1;
	s->source = insn->prefixes & PREFIX_SEGMENT ? insn->segment : SEG_DS;
	s->mask = insn->address_size == 8 ? ~0ull : (1ull << 8 * insn->address_size) - 1;
	s->step = cpu->rflags_system & FLAG_DF ? -(int64_t)s->size : (int64_t)s->size;
	s->repeat = insn->prefixes & (PREFIX_REP | PREFIX_REPNE);
	s->count = s->repeat ? cpu->gpr[REG_RCX] & s->mask : 1;
	s->si = cpu->gpr[REG_RSI] & s->mask;
	s->di = cpu->gpr[REG_RDI] & s->mask;
	s->class = mem_class(cpu);
	s->work = 0;
}

static inline void set_index(const struct string *s, unsigned reg, uint64_t value)
{
	uint64_t *r = &s->cpu->gpr[reg];

	value &= s->mask;
	*r = s->mask == 0xffff ? (*r & ~0xffffull) | value : value;
}

enum { USES_SI = 1, USES_DI = 2 };

/* `n` elements are done: registers and counters. */
static inline void advance(struct string *s, unsigned uses, uint64_t n)
{
	if (uses & USES_SI) {
		s->si = (s->si + n * s->step) & s->mask;
		set_index(s, REG_RSI, s->si);
	}
	if (uses & USES_DI) {
		s->di = (s->di + n * s->step) & s->mask;
		set_index(s, REG_RDI, s->di);
	}
	s->count -= n;
	if (s->repeat)
		set_index(s, REG_RCX, s->count);
	s->work += n * s->size;
}

/*
 * After a chunk: true where the instruction has to stop for now although elements are left. Under single-step
 * every iteration is a boundary (SDM, Single-Step Exception Condition).
 */
static bool interrupted(struct string *s)
{
	struct cpu *cpu = s->cpu;

	if (!s->count)
		return false;
	if (!(cpu->mode & MODE_STEP) && !cpu->debug_trap_pending) {
		if (s->work < WORK_LIMIT)
			return false;
		s->work = 0;
		if (!__atomic_load_n(&cpu->kick, __ATOMIC_RELAXED))
			return false;
	}
	cpu->next_rip = cpu->rip;
	return true;
}

/* How many elements at most are to be done at once; one is done singly. */
static inline uint64_t chunk_limit(const struct string *s)
{
	return s->cpu->mode & MODE_STEP ? 1 : s->count;
}

/*
 * How many elements from `offset` on, at most `most`, can be one chunk: all in the page of the first, in
 * order of the addresses, without wrap and within the segment. *lowest gets the linear address of the chunk's
 * lowest byte. 0: do one element the careful way.
 */
static uint64_t chunk(const struct string *s, unsigned seg, uint64_t offset, uint64_t most, uint64_t *lowest)
{
	struct cpu *cpu = s->cpu;
	const struct segment *segment = &cpu->seg[seg];
	uint64_t gla, in_page, n;

	if (cpu_is_64bit(cpu)) {
		gla = offset + (seg == SEG_FS || seg == SEG_GS ? segment->base : 0);
		if ((uint64_t)((int64_t)(gla << 16) >> 16) != gla)
			return 0;
	} else {
		gla = (segment->base + offset) & 0xffffffff;
	}
	if ((cpu->mode & MODE_ALIGN) && s->class == TLB_USER && (gla & (s->size - 1)))
		return 0;
	in_page = gla & ~PAGE_MASK;
	if (s->step > 0) {
		n = (PAGE_SIZE - in_page) / s->size;
		/* Elements until the index wraps; the last may not straddle the end. */
		if (s->mask - offset < PAGE_SIZE && n > (s->mask - offset + 1) / s->size)
			n = (s->mask - offset + 1) / s->size;
	} else {
		if (in_page + s->size > PAGE_SIZE)
			return 0;
		n = in_page / s->size + 1;
		if (n > offset / s->size + 1)
			n = offset / s->size + 1;
	}
	if (n > most)
		n = most;
	if (!n)
		return 0;
	if (s->step < 0) {
		offset -= (n - 1) * s->size;
		gla -= (n - 1) * s->size;
	}
	if (!cpu_is_64bit(cpu) && (!(cpu->mode & MODE_FLAT) || seg >= SEG_FS)) {
		/* Anything but an ordinary data segment that holds the whole chunk is left to mem_linear. */
		uint32_t rights = segment->rights;

		if ((cpu->mode & MODE_PROTECTED) && ((rights & RIGHTS_UNUSABLE) || (rights & 0xe) != 2))
			return 0;
		if ((rights & 0xc) == 4 || offset + n * s->size - 1 > segment->limit)
			return 0;
	}
	*lowest = gla;
	return n;
}

/* Host addresses of a chunk's first element, given that of its lowest byte. */
static inline uint8_t *first_element(const struct string *s, uint8_t *lowest, uint64_t n)
{
	return s->step > 0 ? lowest : lowest + (n - 1) * s->size;
}

/* Host address of a chunk's lowest byte, or NULL; raises its first element's fault. */
static uint8_t *direct(const struct string *s, uint64_t lowest, uint64_t n, enum mem_access access)
{
	/* Descending, a fault has to name the first element, not the lowest. */
	if (s->step < 0 && n > 1) {
		gpa_t gpa;

		(void)tlb_access(s->cpu, GLA(lowest + (n - 1) * s->size), s->size, access, s->class, &gpa);
	}
	return mem_direct(s->cpu, GLA(lowest), n * s->size, access, s->class);
}

/* ---- the host's string instructions; DF as the guest's for their duration ---- */

#define HOST_STRING(instruction, ...)                                                                        \
	do {                                                                                                 \
		if (s->step > 0)                                                                             \
			__asm__ volatile("rep " instruction __VA_ARGS__);                                    \
		else                                                                                         \
			__asm__ volatile("std; rep " instruction "; cld" __VA_ARGS__);                       \
	} while (0)

static void host_movs(const struct string *s, uint8_t *to, const uint8_t *from, uint64_t n)
{
	switch (s->size) {
	case 1:
		HOST_STRING("movsb", : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc");
		break;
	case 2:
		HOST_STRING("movsw", : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc");
		break;
	case 4:
		HOST_STRING("movsl", : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc");
		break;
	default:
		HOST_STRING("movsq", : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc");
		break;
	}
}

static void host_stos(const struct string *s, uint8_t *to, uint64_t value, uint64_t n)
{
	switch (s->size) {
	case 1:
		HOST_STRING("stosb", : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc");
		break;
	case 2:
		HOST_STRING("stosw", : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc");
		break;
	case 4:
		HOST_STRING("stosl", : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc");
		break;
	default:
		HOST_STRING("stosq", : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc");
		break;
	}
}

static inline uint64_t element(const uint8_t *host, unsigned size)
{
	uint64_t value = 0;

	switch (size) {
	case 1:
		return *host;
	case 2:
		memcpy(&value, host, 2);
		return value;
	case 4:
		memcpy(&value, host, 4);
		return value;
	default:
		memcpy(&value, host, 8);
		return value;
	}
}

/* ---- MOVS, STOS, LODS ---- */

void op_movs(struct cpu *cpu, const struct insn *insn)
{
	struct string s;

	for (begin(cpu, insn, &s); s.count;) {
		uint64_t limit = chunk_limit(&s), source, target, n = 0;
		uint8_t *from = NULL, *to = NULL;

		if (limit > 1)
			n = chunk(&s, s.source, s.si, limit, &source);
		if (n)
			n = chunk(&s, SEG_ES, s.di, n, &target);
		/* The target may have shortened the chunk: descending, the lowest source byte moves up. */
		if (n && s.step < 0)
			(void)chunk(&s, s.source, s.si, n, &source);
		if (n) {
			/*
			 * Order of the faults: the first element's read, then its write. Both pages are
			 * translated for the whole chunk, which lies in them, so later elements cannot fault.
			 */
			from = direct(&s, source, n, ACCESS_READ);
			to = from ? direct(&s, target, n, ACCESS_WRITE) : NULL;
		}
		if (to) {
			host_movs(&s, first_element(&s, to, n), first_element(&s, from, n), n);
		} else {
			uint64_t value = mem_read(cpu, s.source, s.si, s.size);

			mem_write(cpu, SEG_ES, s.di, s.size, value);
			n = 1;
			s.work += SLOW_WORK;
		}
		advance(&s, USES_SI | USES_DI, n);
		if (interrupted(&s))
			return;
	}
}

void op_stos(struct cpu *cpu, const struct insn *insn)
{
	const uint64_t value = cpu->gpr[REG_RAX];
	struct string s;

	for (begin(cpu, insn, &s); s.count;) {
		uint64_t limit = chunk_limit(&s), target;
		uint64_t n = limit > 1 ? chunk(&s, SEG_ES, s.di, limit, &target) : 0;
		uint8_t *to = n ? direct(&s, target, n, ACCESS_WRITE) : NULL;

		if (to) {
			host_stos(&s, first_element(&s, to, n), value, n);
		} else {
			mem_write(cpu, SEG_ES, s.di, s.size, value);
			n = 1;
			s.work += SLOW_WORK;
		}
		advance(&s, USES_DI, n);
		if (interrupted(&s))
			return;
	}
}

void op_lods(struct cpu *cpu, const struct insn *insn)
{
	struct string s;

	for (begin(cpu, insn, &s); s.count;) {
		uint64_t limit = chunk_limit(&s), source, value;
		uint64_t n = limit > 1 ? chunk(&s, s.source, s.si, limit, &source) : 0;
		const uint8_t *from = n ? direct(&s, source, n, ACCESS_READ) : NULL;

		if (from) {
			/* Of a chunk only the last element counts. */
			value = element(s.step > 0 ? from + (n - 1) * s.size : from, s.size);
		} else {
			value = mem_read(cpu, s.source, s.si, s.size);
			n = 1;
			s.work += SLOW_WORK;
		}
		operand_set_register(cpu, insn, REG_RAX, s.size, value);
		advance(&s, USES_SI, n);
		if (interrupted(&s))
			return;
	}
}

/* ---- SCAS, CMPS ---- */

/* Arithmetic flags of a - b. */
static void set_compare_flags(struct cpu *cpu, unsigned size, uint64_t a, uint64_t b)
{
	uint8_t low, overflow;
	unsigned shift = 64 - 8 * size;

	/*
	 * At the top of a word CF, ZF, SF and OF come out as for the element. PF and AF are of the low bits:
	 * AF is the borrow into bit 4, PF the parity of the low byte of the difference.
	 */
	__asm__("cmp %3, %2; lahf; movb %%ah, %0; seto %1"
	        : "=&Q"(low), "=&Q"(overflow)
	        : "r"(a << shift), "r"(b << shift)
	        : "rax", "cc");
	low &= ~(FLAG_PF | FLAG_AF);
	low |= (a ^ b ^ (a - b)) & FLAG_AF;
	low |= __builtin_parity((uint8_t)(a - b)) ? 0 : FLAG_PF;
	cpu->cc_low = low | 2;
	cpu->cc_of = overflow;
}

/*
 * The flags are set only where SCAS or CMPS is left: a page fault restores what they were before the instruction (SDM,
 * REP/REPE/REPZ/REPNE/REPNZ).
 */

/* True where the repetition ends after a comparison with this outcome. */
static inline bool ends(const struct insn *insn, bool equal)
{
	return insn->prefixes & PREFIX_REP ? !equal : equal; /* REPE, REPNE */
}

void op_scas(struct cpu *cpu, const struct insn *insn)
{
	struct string s;

	for (begin(cpu, insn, &s); s.count;) {
		uint64_t limit = chunk_limit(&s), target, value = 0, i;
		uint64_t wanted = operand_register(cpu, insn, REG_RAX, s.size);
		uint64_t n = limit > 1 ? chunk(&s, SEG_ES, s.di, limit, &target) : 0;
		const uint8_t *at = n ? direct(&s, target, n, ACCESS_READ) : NULL;

		if (at) {
			const uint8_t *p = first_element(&s, (uint8_t *)at, n);

			for (i = 0; i < n; p += s.step) {
				value = element(p, s.size);
				i++;
				if (ends(insn, value == wanted))
					break;
			}
			n = i;
		} else {
			value = mem_read(cpu, SEG_ES, s.di, s.size);
			n = 1;
			s.work += SLOW_WORK;
		}
		advance(&s, USES_DI, n);
		if ((s.repeat && ends(insn, value == wanted)) || !s.count || interrupted(&s)) {
			set_compare_flags(cpu, s.size, wanted, value);
			return;
		}
	}
}

void op_cmps(struct cpu *cpu, const struct insn *insn)
{
	struct string s;

	for (begin(cpu, insn, &s); s.count;) {
		uint64_t limit = chunk_limit(&s), source, target, a = 0, b = 0, i, n = 0;
		const uint8_t *from = NULL, *at = NULL;

		if (limit > 1)
			n = chunk(&s, s.source, s.si, limit, &source);
		if (n)
			n = chunk(&s, SEG_ES, s.di, n, &target);
		if (n && s.step < 0)
			(void)chunk(&s, s.source, s.si, n, &source);
		if (n) {
			from = direct(&s, source, n, ACCESS_READ);
			at = from ? direct(&s, target, n, ACCESS_READ) : NULL;
		}
		if (at) {
			from = first_element(&s, (uint8_t *)from, n);
			at = first_element(&s, (uint8_t *)at, n);
			for (i = 0; i < n; from += s.step, at += s.step) {
				a = element(from, s.size);
				b = element(at, s.size);
				i++;
				if (ends(insn, a == b))
					break;
			}
			n = i;
		} else {
			a = mem_read(cpu, s.source, s.si, s.size);
			b = mem_read(cpu, SEG_ES, s.di, s.size);
			n = 1;
			s.work += SLOW_WORK;
		}
		advance(&s, USES_SI | USES_DI, n);
		if ((s.repeat && ends(insn, a == b)) || !s.count || interrupted(&s)) {
			set_compare_flags(cpu, s.size, a, b);
			return;
		}
	}
}
