/*
 * Start of a freestanding guest (Multiboot 1): from 32-bit protected mode to 64-bit mode on tables that map the
 * first 4 GiB to themselves, user-accessible, by 2 MiB pages; SSE on. Then main(), whose result is the value
 * written to isa-debug-exit.
 */
#include "runtime/start.h"

start:
	cli
	cld
	mov %ebx, boot_information
	mov $stack_end, %esp
	/* PML4 -> PDPT -> four page directories */
	movl $runtime_pdpt + 7, runtime_pml4
	mov $runtime_pd + 7, %eax
	mov $runtime_pdpt, %edi
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $0x1000, %eax
	add $8, %edi
	loop 1b
	mov $0x87, %eax
	mov $runtime_pd, %edi
	mov $2048, %ecx
2:	mov %eax, (%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 2b
	mov $runtime_pml4, %eax
	mov %eax, %cr3
	mov $0x6a0, %eax	/* PAE, PGE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax		/* SCE, LME, NXE */
	wrmsr
	mov $0x80010033, %eax	/* PG, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $start_64

	.code64
start_64:
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	mov $stack_end, %rsp
	lea runtime_tss(%rip), %rax
	lea gdt_tss(%rip), %rdi
	mov %ax, 2(%rdi)
	shr $16, %rax
	mov %al, 4(%rdi)
	mov %ah, 7(%rdi)
	mov $0x38, %eax
	ltr %ax
	call runtime_main
	/* isa-debug-exit */
5:	mov $0xf4, %edx
	out %eax, %dx
	cli
	hlt
	jmp 5b

	.globl runtime_gdt, runtime_gdt_end
	.data
	.balign 16
runtime_gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* 08: 64-bit code */
	.quad 0x00cf93000000ffff	/* 10: data */
	.quad 0x00cf9b000000ffff	/* 18: 32-bit code */
	.quad 0x00affb000000ffff	/* 20: 64-bit code, CPL 3 */
	.quad 0x00cff3000000ffff	/* 28: data, CPL 3 */
	.quad 0x00cffb000000ffff	/* 30: 32-bit code, CPL 3 */
gdt_tss:
	.quad 0x0000890000000067	/* 38: TSS */
	.quad 0
	.quad 0x000f9b000000ffff + 0	/* 48: 16-bit code */
	.quad 0x000f93000000ffff + 0	/* 50: 16-bit data */
	.quad 0, 0, 0, 0		/* 58: a test's own */
runtime_gdt_end:
gdt_pointer:
	.word runtime_gdt_end - runtime_gdt - 1
	.long runtime_gdt
	.long 0

	.bss
	.balign 4096
	.globl runtime_pml4, runtime_pdpt, runtime_pd, runtime_tss, boot_information
runtime_pml4:
	.skip 4096
runtime_pdpt:
	.skip 4096
runtime_pd:
	.skip 4 * 4096
	.skip 65536
	.balign 16
stack_end:
runtime_tss:
	.skip 104
boot_information:
	.skip 4

/* Exceptions: vector number and error code onto the stack, then runtime_exception(frame). */
	.text
	vector_stubs runtime_vectors
exception:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %rdi
	cld
	call runtime_exception
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq
	.section .note.GNU-stack, "", @progbits
