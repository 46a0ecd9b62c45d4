/* X11 keysyms, as VNC viewers send them, to the keys of a US keyboard (Linux's KEY_…). */
#ifndef NESTOR_DISPLAY_KEYSYM_H
#define NESTOR_DISPLAY_KEYSYM_H

#include <stdbool.h>
#include <stdint.h>

enum keysym_shift {
	KEYSYM_ANY,     /* the key means this with and without shift */
	KEYSYM_PLAIN,   /* only without shift */
	KEYSYM_SHIFTED, /* only with shift */
};

struct keysym_key {
	unsigned key;
	enum keysym_shift shift;
	bool letter; /* caps lock turns shift round */
};

/* Returns false where a US keyboard has no key for it. */
bool keysym_find(uint32_t keysym, struct keysym_key *key);

#endif
