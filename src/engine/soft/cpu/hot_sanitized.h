/*
 * Force-included into hot C of a build with AddressSanitizer. Before each call that does not return, the compiler calls
 * the run-time library to lift poison from the stack, and that call would clobber the guest's vector registers.
 * Hot C poisons no stack (meson.build), so nothing needs to be done.
 */
#ifndef NESTOR_CPU_HOT_SANITIZED_H
#define NESTOR_CPU_HOT_SANITIZED_H

void __asan_handle_no_return(void) __asm__("hot_asan_no_return");

#endif
