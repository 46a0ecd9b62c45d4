/* The user's terminal in raw mode, and its way back at every kind of exit. */
#ifndef NESTOR_DEVICE_TERMINAL_H
#define NESTOR_DEVICE_TERMINAL_H

#include <stdbool.h>

/*
 * Puts standard input into raw mode if it is a terminal and arranges for terminal_restore at exit and at
 * fatal signals whose action is still the default. keep_output: newlines stay as they are for others who
 * print, at the price of guests that move the cursor with a bare line feed. Returns 1 for a terminal, 0 where
 * it is none, or a negative errno with error_text().
 */
int terminal_raw(bool keep_output);

/* What ends a line of Nestor's own on the terminal as it is now. */
const char *terminal_newline(void);

/* Gives the terminal back as it was. Async-signal-safe: whoever ends the process outside exit() calls it. */
void terminal_restore(void);

#endif
