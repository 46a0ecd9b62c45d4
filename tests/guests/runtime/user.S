/* user_run: to less privileged code and back (user.h). */
	.text
	.globl user_run, user_back
user_run:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, user_kernel_rsp
	pushq $0x2b
	push %rsi
	push %rcx
	push %rdx
	push %rdi
	mov %r8, %rdi
	mov %r9, %rsi
	iretq
user_back:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	mov $0x10, %edx
	mov %edx, %ds
	mov %edx, %es
	ret
	.section .note.GNU-stack, "", @progbits
