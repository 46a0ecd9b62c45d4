/* The pair of 8259A interrupt controllers. All under the machine lock. */
#ifndef NESTOR_DEVICE_PIC_H
#define NESTOR_DEVICE_PIC_H

struct pic;

/* The INTA cycles of the pair: the vector, or -1 where INTR is not asserted. */
int pic_acknowledge(struct pic *pic);

#endif
