/*
 * The control socket of a running machine: a JSON protocol in the manners of QEMU's QMP (greeting, capabilities,
 * commands with IDs, errors, events), served by a thread of its own. docs/control.md lists the commands.
 */
#ifndef NESTOR_CONTROL_CONTROL_H
#define NESTOR_CONTROL_CONTROL_H

struct control;
struct endpoint;
struct machine;

/*
 * Listens on the endpoint's NAME.sock. Before machine_run; machine and endpoint are borrowed until control_stop.
 * Returns 0, or a negative errno with error_text().
 */
int control_start(struct control **control, struct machine *machine, struct endpoint *endpoint);

/* After machine_run: sends what clients have not read yet, for a short while, and closes. NULL does nothing. */
void control_stop(struct control *control);

#endif
