/* The instructions that are executed in C. Conventions: cpu.h, opening comment. */
#ifndef NESTOR_CPU_OPS_H
#define NESTOR_CPU_OPS_H

#include "engine/soft/cpu/cpu.h"

typedef void op_function(struct cpu *cpu, const struct insn *insn);

/* string.c. All sizes, REP forms, DF, segment overrides; REP commits per page chunk, is interruptible (when
 * cpu->kick is set it stops between iterations with next_rip = rip) and uses host string moves where it can. */
op_function op_movs, op_stos, op_lods, op_scas, op_cmps;

/* stack.c: forms that the translator does not inline */
op_function op_push_segment, op_pusha, op_popa, op_enter, op_leave, op_pushf, op_popf;
op_function op_push_rm, op_pop_rm; /* FF /6, 8F /0 with memory operands */
op_function op_push_imm, op_push_reg, op_pop_reg; /* outside flat mode */
op_function op_call_near, op_call_near_rm, op_ret_near, op_ret_near_imm, op_jmp_near_rm; /* outside flat mode */

/* segment.c */
op_function op_mov_to_segment, op_mov_from_segment, op_pop_segment, op_load_far_pointer /* LDS LES LSS LFS LGS */;
op_function op_lar, op_lsl, op_verr, op_verw, op_arpl, op_bound;
op_function op_lgdt, op_lidt, op_sgdt, op_sidt, op_lldt, op_ltr, op_sldt, op_str;

/* far_transfer.c */
op_function op_jmp_far, op_call_far; /* 9A, EA, FF /3, FF /5 */
op_function op_ret_far;              /* CA, CB */
op_function op_iret;
op_function op_int, op_int3, op_into, op_int1;

/* syscall.c */
op_function op_syscall, op_sysret, op_sysenter, op_sysexit;
op_function op_swapgs, op_rdfsbase, op_rdgsbase, op_wrfsbase, op_wrgsbase;

/* flag_ops.c */
op_function op_cli, op_sti, op_clac, op_stac;

/* control.c */
op_function op_mov_to_cr, op_mov_from_cr, op_mov_to_dr, op_mov_from_dr, op_lmsw, op_smsw, op_clts;
op_function op_invlpg, op_invpcid, op_invd, op_wbinvd;
op_function op_hlt, op_monitor, op_mwait, op_pause;

/* system.c */
op_function op_cpuid, op_rdmsr, op_wrmsr, op_rdtsc, op_rdtscp, op_rdpmc, op_rdpid, op_rdrand, op_rdseed;
op_function op_getsec, op_rsm, op_ud;

/* io.c */
op_function op_in, op_out, op_ins, op_outs; /* E4-E7, EC-EF, 6C-6F */

/* xsave.c. These see the FPU state through fpu_stash/fpu_unstash. */
op_function op_xgetbv, op_xsetbv, op_xsave, op_xsaveopt, op_xsavec, op_xsaves, op_xrstor, op_xrstors;
op_function op_fxsave, op_fxrstor, op_fnsave, op_frstor, op_fnstenv, op_fldenv;

/* vector_memory.c */
op_function op_gather, op_maskmov;

/* integer.c: forms the translator does not inline, for every mode */
op_function op_cmpxchg8b /* and 16b */;
op_function op_salc, op_aaa, op_aas, op_daa, op_das, op_aam, op_aad; /* not in 64-bit mode */

#endif
