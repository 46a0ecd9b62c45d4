/* System instructions done inline; see inline_ops.c. */
#ifndef NESTOR_BT_INLINE_OPS_H
#define NESTOR_BT_INLINE_OPS_H

#include "engine/soft/bt/translate.h"

void emit_cli(struct translation *t);
void emit_sti(struct translation *t, const struct insn *insn);
void emit_set_ac(struct translation *t, bool set);
void emit_swapgs(struct translation *t);
void emit_rdtsc(struct translation *t, bool with_aux);
void emit_flags_image(struct translation *t);
void emit_mov_from_segment(struct translation *t, const struct insn *insn);

/* CR0, CR2, CR3 and CR4, outside non-root operation. */
void emit_mov_from_cr(struct translation *t, const struct insn *insn);
/* RDFSBASE, RDGSBASE; WRFSBASE, WRGSBASE. */
void emit_read_base(struct translation *t, const struct insn *insn);
void emit_write_base(struct translation *t, const struct insn *insn);

#endif
