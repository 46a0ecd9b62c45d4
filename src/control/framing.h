/*
 * Cutting a stream of bytes into JSON texts, whose senders may put line ends between them or not. Bounded: a text
 * has at most FRAMING_TEXT_MAX bytes and FRAMING_DEPTH_MAX levels.
 */
#ifndef NESTOR_CONTROL_FRAMING_H
#define NESTOR_CONTROL_FRAMING_H

#include <stdbool.h>
#include <stddef.h>

#define FRAMING_TEXT_MAX  65536
#define FRAMING_DEPTH_MAX 64

enum framing_result {
	FRAMING_MORE,  /* all bytes taken, no whole text yet */
	FRAMING_TEXT,  /* a text is complete: framing.text, framing.length; framing_next before the next byte */
	FRAMING_LARGE, /* too long or too deep: nothing sensible can follow */
};

struct framing {
	char *text; /* FRAMING_TEXT_MAX bytes, owned */
	size_t length;
	unsigned depth;
	bool in_string, escaped;
};

/* Returns 0 or -ENOMEM with error_text(). */
int framing_init(struct framing *framing);
void framing_free(struct framing *framing);

/* Takes bytes up to the end of a text. *taken: how many. */
enum framing_result framing_feed(struct framing *framing, const char *bytes, size_t size, size_t *taken);

/* Forgets the text that was complete. */
void framing_next(struct framing *framing);

#endif
