#include "machine/notify.h"

#include <errno.h>
#include <string.h>

#include "machine/machine.h"
#include "util/error.h"

int machine_add_listener(struct machine *machine, void (*notify)(void *, enum machine_event, const char *),
                         void *context)
{
	int result = -ENOSPC;

	pthread_mutex_lock(&machine->listener_lock);
	for (unsigned i = 0; i < MACHINE_LISTENERS && result; i++) {
		if (machine->listener[i].notify)
			continue;
		machine->listener[i] = (struct machine_listener){notify, context};
		result = 0;
	}
	pthread_mutex_unlock(&machine->listener_lock);
	return result ? error_set(ENOSPC, "too many listen to the machine") : 0;
}

void machine_remove_listener(struct machine *machine, void *context)
{
	pthread_mutex_lock(&machine->listener_lock);
	for (unsigned i = 0; i < MACHINE_LISTENERS; i++)
		if (machine->listener[i].context == context)
			machine->listener[i] = (struct machine_listener){NULL, NULL};
	pthread_mutex_unlock(&machine->listener_lock);
}

void machine_notify(struct machine *machine, enum machine_event event, const char *detail)
{
	pthread_mutex_lock(&machine->listener_lock);
	for (unsigned i = 0; i < MACHINE_LISTENERS; i++)
		if (machine->listener[i].notify)
			machine->listener[i].notify(machine->listener[i].context, event, detail);
	pthread_mutex_unlock(&machine->listener_lock);
}

void machine_add_description(struct machine *machine, const char *topic, const char *name,
                             void (*describe)(void *context, FILE *out), void *context)
{
	if (machine->description_count < MACHINE_DESCRIPTIONS)
		machine->description[machine->description_count++] =
		    (struct machine_description){topic, name, describe, context};
}

bool machine_describe(struct machine *machine, const char *topic, FILE *out)
{
	bool found = false;

	machine_lock(machine);
	for (unsigned i = 0; i < machine->description_count; i++) {
		const struct machine_description *row = &machine->description[i];

		if (strcmp(row->topic, topic) != 0)
			continue;
		fprintf(out, "%s:\n", row->name);
		row->describe(row->context, out);
		found = true;
	}
	machine_unlock(machine);
	return found;
}
