/*
 * For start.S and start32.S: the Multiboot 1 header, with the entry point in 32-bit code; and a stub of 16 bytes for each
 * vector, which sees to it that vector number and error code (0 where the CPU pushes none) are on the stack.
 */
	.set MAGIC, 0x1badb002
	.set FLAGS, 0x00010000	/* load addresses below: any loader takes the ELF64 file as a flat one */

	.section .multiboot, "a"
	.balign 4
multiboot:
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)
	.long multiboot, image_start, data_end, bss_end, start

	.text
	.code32
	.globl start

	.macro vector_stubs name
	.globl \name
	.balign 16
\name:
	.set vector, 0
	.rept 256
	.balign 16
	.if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
	push $0
	.endif
	push $vector
	jmp exception
	.set vector, vector + 1
	.endr
	.endm
