/* --gdb: a debugger's way into the machine, by GDB's remote serial protocol. */
#ifndef NESTOR_GDB_GDB_H
#define NESTOR_GDB_GDB_H

struct gdb;
struct machine;

/*
 * Listens where spec says: "PORT" (TCP on 127.0.0.1) or "unix:PATH", with ",arch=i386" or
 * ",arch=i8086": registers as GDB knows them for 32- or 16-bit code; with ",wait": the guest does not start before a
 * debugger lets it. Before machine_run; machine is borrowed until gdb_stop. Returns 0, or a negative errno with
 * error_text().
 */
int gdb_start(struct gdb **gdb, struct machine *machine, const char *spec);

/* After machine_run, which returned `status`: tells the debugger, and closes. NULL does nothing. */
void gdb_stop(struct gdb *gdb, int status);

/* Checks a spec without any effect. Returns 0, or -EINVAL with error_text(). */
int gdb_check(const char *spec);

#endif
