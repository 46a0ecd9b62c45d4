#include "control/framing.h"

#include <errno.h>
#include <stdlib.h>

#include "util/error.h"

int framing_init(struct framing *framing)
{
	*framing = (struct framing){.text = malloc(FRAMING_TEXT_MAX)};
	return framing->text ? 0 : error_set(ENOMEM, "out of memory");
}

void framing_free(struct framing *framing)
{
	free(framing->text);
	framing->text = NULL;
}

void framing_next(struct framing *framing)
{
	framing->length = 0;
	framing->depth = 0;
	framing->in_string = framing->escaped = false;
}

static bool is_space(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

/* One byte that belongs to the text. Returns whether it ends it. */
static bool step(struct framing *framing, char byte)
{
	if (framing->in_string) {
		if (framing->escaped)
			framing->escaped = false;
		else if (byte == '\\')
			framing->escaped = true;
		else if (byte == '"')
			framing->in_string = false;
		return false;
	}
	switch (byte) {
	case '"':
		framing->in_string = true;
		return false;
	case '{':
	case '[':
		framing->depth++;
		return false;
	case '}':
	case ']':
		if (framing->depth)
			framing->depth--;
		return framing->depth == 0;
	default:
		return false;
	}
}

enum framing_result framing_feed(struct framing *framing, const char *bytes, size_t size, size_t *taken)
{
	for (size_t i = 0; i < size; i++) {
		char byte = bytes[i];
		bool outside = framing->depth == 0 && !framing->in_string;

		*taken = i + 1;
		if (outside && is_space(byte) && framing->length == 0)
			continue;
		/* What is no object (a word, a number) ends with its line: an error that the reader must get. */
		if (byte == '\n' && framing->depth == 0)
			return FRAMING_TEXT;
		if (framing->length == FRAMING_TEXT_MAX)
			return FRAMING_LARGE;
		framing->text[framing->length++] = byte;
		if (step(framing, byte))
			return FRAMING_TEXT;
		if (framing->depth > FRAMING_DEPTH_MAX)
			return FRAMING_LARGE;
	}
	*taken = size;
	return FRAMING_MORE;
}
