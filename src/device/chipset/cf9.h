/* The reset control register. Under the machine lock. */
#ifndef NESTOR_DEVICE_CF9_H
#define NESTOR_DEVICE_CF9_H

#include <stdint.h>

struct cf9;

uint8_t cf9_read(const struct cf9 *cf9);
void cf9_write(struct cf9 *cf9, uint8_t value);

#endif
