/* Where SIPI starts a processor (copied to 8000H): real-address mode to 64-bit mode on the boot processor's tables. */
	.section .rodata
	.code16
	.globl smp_trampoline, smp_trampoline_end
smp_trampoline:
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl gdt - smp_trampoline
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x18, $(0x8000 + protected - smp_trampoline)
	.code32
protected:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $runtime_pml4, %eax
	mov %eax, %cr3
	mov $0x6a0, %eax
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax
	wrmsr
	mov $0x80010033, %eax
	mov %eax, %cr0
	ljmp $8, $(0x8000 + long_mode - smp_trampoline)
	.code64
long_mode:
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	/* A stack by the APIC ID. */
	mov $1, %eax
	cpuid
	shr $24, %ebx
	inc %ebx
	imul $16384, %rbx, %rsp
	add $smp_stack, %rsp
	mov $smp_main, %rax
	call *%rax
	.balign 4
gdt:
	.word 0x60 - 1
	.long runtime_gdt
smp_trampoline_end:
	.section .note.GNU-stack, "", @progbits
