#include "machine/irq.h"

#include <assert.h>
#include <stddef.h>

void irq_line_add_sink(struct irq_line *line, void (*set)(void *controller, unsigned input, bool level),
                       void *controller, unsigned input)
{
	assert(line->sink_count < IRQ_LINE_SINKS);
	line->sink[line->sink_count++] = (struct irq_sink){set, controller, input};
}

static void fan_out(struct irq_line *line, bool level)
{
	for (unsigned i = 0; i < line->sink_count; i++)
		line->sink[i].set(line->sink[i].controller, line->sink[i].input, level);
}

static void update(struct irq_pin *pin)
{
	bool drive = pin->level && !pin->cut;

	if (drive == pin->driven || !pin->line)
		return;
	pin->driven = drive;
	if (drive) {
		if (pin->line->asserted++ == 0)
			fan_out(pin->line, true);
	} else if (--pin->line->asserted == 0) {
		fan_out(pin->line, false);
	}
}

void irq_pin_connect(struct irq_pin *pin, struct irq_line *line)
{
	if (pin->driven && --pin->line->asserted == 0)
		fan_out(pin->line, false);
	pin->driven = false;
	pin->line = line;
	update(pin);
}

void irq_pin_set(struct irq_pin *pin, bool level)
{
	pin->level = level;
	update(pin);
}

void irq_pin_pulse(struct irq_pin *pin)
{
	irq_pin_set(pin, false);
	irq_pin_set(pin, true);
}

void irq_pin_cut(struct irq_pin *pin, bool cut)
{
	pin->cut = cut;
	update(pin);
}
