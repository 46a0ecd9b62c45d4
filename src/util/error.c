#include "util/error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[512];

int error_set(int errno_value, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	return -errno_value;
}

const char *error_text(void)
{
	return message;
}
