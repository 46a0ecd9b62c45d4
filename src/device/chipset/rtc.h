/* The real-time clock's CMOS memory, for boot code. */
#ifndef NESTOR_DEVICE_RTC_H
#define NESTOR_DEVICE_RTC_H

#include <stdint.h>

struct rtc;

/* Sets a byte of CMOS memory. index: 0Eh-7Fh. Under the machine lock, or before the machine runs. */
void rtc_set_cmos(struct rtc *rtc, unsigned index, uint8_t value);

#endif
