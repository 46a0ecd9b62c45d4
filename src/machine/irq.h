/*
 * Interrupt lines. A device owns pins; pins of several devices may drive one line (wired or); a line fans out
 * to the inputs of the 8259 pair and the IOAPIC, which decide by their own registers whether its level or its
 * edge counts. Everything runs under the machine lock.
 */
#ifndef NESTOR_MACHINE_IRQ_H
#define NESTOR_MACHINE_IRQ_H

#include <stdbool.h>

#define IRQ_LINE_SINKS 2

struct irq_sink {
	void (*set)(void *controller, unsigned input, bool level);
	void *controller;
	unsigned input;
};

struct irq_line {
	unsigned asserted; /* pins that drive it high */
	struct irq_sink sink[IRQ_LINE_SINKS];
	unsigned sink_count;
};

struct irq_pin {
	struct irq_line *line; /* borrowed; NULL: not connected */
	bool level;            /* as the device drives it */
	bool cut;              /* disconnected for now (HPET legacy replacement) */
	bool driven;           /* counted in line->asserted */
};

/* Connects line to one more interrupt controller input; at most IRQ_LINE_SINKS. */
void irq_line_add_sink(struct irq_line *line, void (*set)(void *controller, unsigned input, bool level),
                       void *controller, unsigned input);

void irq_pin_connect(struct irq_pin *pin, struct irq_line *line);
void irq_pin_set(struct irq_pin *pin, bool level);
/* A rising edge: low, then high, where it stays (an 8259 forgets a request whose input falls before INTA). */
void irq_pin_pulse(struct irq_pin *pin);
void irq_pin_cut(struct irq_pin *pin, bool cut);

#endif
