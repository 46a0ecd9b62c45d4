/* Start of a 32-bit freestanding guest (Multiboot 1): flat segments, no paging, vectors (guest32.h). */
#include "runtime/start.h"

start:
	cli
	cld
	mov $stack_end, %esp
	lgdt gdt_pointer
	ljmp $8, $1f
1:	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	mov %cr0, %eax
	or $0x22, %eax		/* NE, MP */
	and $~4, %eax
	mov %eax, %cr0
	call runtime_main
2:	mov $0xf4, %edx
	out %eax, %dx
	cli
	hlt
	jmp 2b

	.globl gdt, gdt_end
	.data
	.balign 16
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 08: code */
	.quad 0x00cf93000000ffff	/* 10: data */
	.quad 0x00009b000000ffff	/* 18: 16-bit code, 64 KiB */
	.quad 0x000093000000ffff	/* 20: 16-bit data, 64 KiB */
	.quad 0x00cffb000000ffff	/* 28: code, CPL 3 */
	.quad 0x00cff3000000ffff	/* 30: data, CPL 3 */
	.fill 17, 8, 0			/* 38: a test's own */
gdt_end:
	.globl gdt_pointer
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt

	.bss
	.balign 4096
	.skip 32768
stack_end:

	.text
	vector_stubs vectors
exception:
	pusha
	push %ds
	push %es
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %esp, %eax
	cld
	push %eax
	call runtime_exception
	pop %eax
	pop %es
	pop %ds
	popa
	add $8, %esp
	iretl

/* void user_run(uint32_t eip, uint32_t esp, uint32_t cs, uint32_t flags, uint32_t ss): comes back by INT 80H. */
	.globl user_run, user_back, user_kernel_esp
user_run:
	push %ebp
	push %ebx
	push %esi
	push %edi
	mov %esp, user_kernel_esp
	mov 20(%esp), %eax
	mov 24(%esp), %ecx
	mov 28(%esp), %edx
	mov 32(%esp), %ebx
	mov 36(%esp), %esi
	test $0x20000, %ebx
	jz 1f
	pushl %esi		/* GS, FS, DS, ES of virtual-8086 code */
	pushl %esi
	pushl %esi
	pushl %esi
1:	push %esi
	push %ecx
	push %ebx
	push %edx
	push %eax
	iretl
user_back:
	mov user_kernel_esp, %esp
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	pop %edi
	pop %esi
	pop %ebx
	pop %ebp
	ret
	.bss
user_kernel_esp:
	.skip 4
	.section .note.GNU-stack, "", @progbits
