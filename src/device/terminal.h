/* The user's terminal in raw mode, and its way back at every kind of exit. */
#ifndef NESTOR_DEVICE_TERMINAL_H
#define NESTOR_DEVICE_TERMINAL_H

/*
 * Puts standard input into raw mode if it is a terminal (output processing stays on) and arranges for
 * terminal_restore at exit and at fatal signals whose action is still the default. Returns 1 for a terminal,
 * 0 where it is none, or a negative errno with error_text().
 */
int terminal_raw(void);

/* Gives the terminal back as it was. Async-signal-safe: whoever ends the process outside exit() calls it. */
void terminal_restore(void);

#endif
