/* The one-line message behind a negative errno. */
#ifndef NESTOR_UTIL_ERROR_H
#define NESTOR_UTIL_ERROR_H

/*
 * Sets this thread's error message and returns -errno_value, so that a function can end with
 * `return error_set(EINVAL, "…")`. errno_value: a positive errno. The message is one line that says what
 * was wrong, where, and how to mend it; no trailing newline or full stop is needed.
 */
int error_set(int errno_value, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The message last set on this thread; never NULL. */
const char *error_text(void);

#endif
