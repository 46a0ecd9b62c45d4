/*
 * 16550A serial ports. The line is as fast as the guest: what is written to the transmitter has left at once,
 * so THRE and TEMT are always set and the "transmitter empty" interrupt follows each write immediately.
 * Rules: National Semiconductor PC16550D data sheet ("Registers", "FIFO Interrupt Mode Operation").
 */
#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "device/serial/host_port.h"
#include "machine/machine.h"
#include "util/error.h"

#define FIFO_SIZE 16

#define IER_RDI  0x01
#define IER_THRI 0x02
#define IER_RLSI 0x04
#define IER_MSI  0x08

#define IIR_NONE    0x01
#define IIR_MODEM   0x00
#define IIR_THR     0x02
#define IIR_DATA    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02

#define LCR_DLAB 0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DATA    0x01
#define LSR_OVERRUN 0x02
#define LSR_ERRORS  0x1e
#define LSR_THRE    0x20
#define LSR_TEMT    0x40

#define MSR_DCTS  0x01
#define MSR_DDSR  0x02
#define MSR_TERI  0x04
#define MSR_DDCD  0x08
#define MSR_CTS   0x10
#define MSR_DSR   0x20
#define MSR_RI    0x40
#define MSR_DCD   0x80
#define MSR_DELTA 0x0f

struct serial {
	struct machine *machine;
	struct host_port *host;
	struct irq_pin pin;
	uint8_t ier, fcr, lcr, mcr, msr, scratch, errors; /* errors: LSR's bits 4:1 */
	uint8_t divisor[2];
	uint8_t fifo[FIFO_SIZE];
	unsigned count, first;
	bool thr_pending; /* the transmitter-empty interrupt has not been seen yet */
};

static unsigned fifo_size(const struct serial *serial)
{
	return serial->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned trigger_level(const struct serial *serial)
{
	static const uint8_t level[] = {1, 4, 8, 14};

	return serial->fcr & FCR_ENABLE ? level[serial->fcr >> 6] : 1;
}

/* The interrupt to report, by the data sheet's priorities. */
static uint8_t interrupt(const struct serial *serial)
{
	if (serial->ier & IER_RLSI && serial->errors)
		return IIR_LINE;
	if (serial->ier & IER_RDI && serial->count)
		/* Fewer than the trigger level: we know at once that no more will come. */
		return serial->count >= trigger_level(serial) ? IIR_DATA : IIR_TIMEOUT;
	if (serial->ier & IER_THRI && serial->thr_pending)
		return IIR_THR;
	if (serial->ier & IER_MSI && serial->msr & MSR_DELTA)
		return IIR_MODEM;
	return IIR_NONE;
}

/* On a PC, OUT2 connects the interrupt to the bus. */
static void update(struct serial *serial)
{
	irq_pin_set(&serial->pin, interrupt(serial) != IIR_NONE && serial->mcr & MCR_OUT2);
}

static void receive(struct serial *serial, uint8_t byte)
{
	if (serial->count == fifo_size(serial)) {
		serial->errors |= LSR_OVERRUN;
		return;
	}
	serial->fifo[(serial->first + serial->count++) % FIFO_SIZE] = byte;
}

/* Fetches from the host what fits. In loopback mode the receiver is cut off from the line. */
static void fill(struct serial *serial)
{
	uint8_t byte;

	while (!(serial->mcr & MCR_LOOP) && serial->count < fifo_size(serial) &&
	       host_port_get(serial->host, &byte))
		receive(serial, byte);
	update(serial);
}

static void host_input(void *context)
{
	fill(context);
}

static void transmit(struct serial *serial, uint8_t byte)
{
	if (serial->mcr & MCR_LOOP)
		receive(serial, byte);
	else
		host_port_put(serial->host, byte);
	serial->thr_pending = true;
	update(serial);
}

static uint8_t read_data(struct serial *serial)
{
	uint8_t byte = 0;

	if (serial->count) {
		byte = serial->fifo[serial->first];
		serial->first = (serial->first + 1) % FIFO_SIZE;
		serial->count--;
	}
	fill(serial);
	return byte;
}

static uint8_t read_iir(struct serial *serial)
{
	uint8_t source = interrupt(serial);

	if (source == IIR_THR) { /* "reading the IIR, if it is the source" resets it */
		serial->thr_pending = false;
		update(serial);
	}
	return source | (serial->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial *serial)
{
	uint8_t value = LSR_THRE | LSR_TEMT | serial->errors | (serial->count ? LSR_DATA : 0);

	serial->errors = 0;
	update(serial);
	return value;
}

static uint8_t read_msr(struct serial *serial)
{
	uint8_t value = serial->msr;

	serial->msr &= (uint8_t)~MSR_DELTA;
	update(serial);
	return value;
}

/* The modem inputs: a peer that is always there, or in loopback mode our own outputs. */
static void update_modem(struct serial *serial)
{
	uint8_t old = serial->msr, now = MSR_CTS | MSR_DSR | MSR_DCD;

	if (serial->mcr & MCR_LOOP)
		now =
		    (uint8_t)((serial->mcr & MCR_RTS ? MSR_CTS : 0) | (serial->mcr & MCR_DTR ? MSR_DSR : 0) |
		              (serial->mcr & MCR_OUT1 ? MSR_RI : 0) | (serial->mcr & MCR_OUT2 ? MSR_DCD : 0));
	now |= old & MSR_DELTA;
	if ((old ^ now) & MSR_CTS)
		now |= MSR_DCTS;
	if ((old ^ now) & MSR_DSR)
		now |= MSR_DDSR;
	if (old & ~now & MSR_RI)
		now |= MSR_TERI;
	if ((old ^ now) & MSR_DCD)
		now |= MSR_DDCD;
	serial->msr = now;
}

static void write_ier(struct serial *serial, uint8_t value)
{
	/* Enabling the transmitter-empty interrupt while it is empty causes one. */
	if (value & ~serial->ier & IER_THRI)
		serial->thr_pending = true;
	serial->ier = value & 0x0f;
	update(serial);
}

static void write_fcr(struct serial *serial, uint8_t value)
{
	bool toggled = (value ^ serial->fcr) & FCR_ENABLE;

	if (toggled || value & FCR_CLEAR_RX) {
		serial->count = 0;
		serial->first = 0;
	}
	/* "Bit 0 must be 1 when other FCR bits are written or they will not be programmed" */
	serial->fcr = value & FCR_ENABLE ? value & 0xc1 : 0;
	fill(serial);
}

static void write_mcr(struct serial *serial, uint8_t value)
{
	serial->mcr = value & 0x1f;
	update_modem(serial);
	fill(serial);
}

static uint64_t serial_read(void *state, uint64_t offset, unsigned size)
{
	struct serial *serial = state;

	if (serial->lcr & LCR_DLAB && offset < 2)
		return serial->divisor[offset];
	switch (offset) {
	case 0:
		return read_data(serial);
	case 1:
		return serial->ier;
	case 2:
		return read_iir(serial);
	case 3:
		return serial->lcr;
	case 4:
		return serial->mcr;
	case 5:
		return read_lsr(serial);
	case 6:
		return read_msr(serial);
	default:
		return serial->scratch;
	}
}

static void serial_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct serial *serial = state;
	uint8_t byte = (uint8_t)value;

	if (serial->lcr & LCR_DLAB && offset < 2) {
		serial->divisor[offset] = byte;
		return;
	}
	switch (offset) {
	case 0:
		transmit(serial, byte);
		break;
	case 1:
		write_ier(serial, byte);
		break;
	case 2:
		write_fcr(serial, byte);
		break;
	case 3:
		serial->lcr = byte;
		break;
	case 4:
		write_mcr(serial, byte);
		break;
	case 7:
		serial->scratch = byte;
		break;
	default: /* LSR and MSR: writing is for factory tests */
		break;
	}
}

static void serial_reset(void *state)
{
	struct serial *serial = state;

	serial->ier = serial->fcr = serial->lcr = serial->mcr = serial->scratch = serial->errors = 0;
	serial->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	serial->divisor[0] = 12; /* 9600 baud */
	serial->divisor[1] = 0;
	serial->count = serial->first = 0;
	serial->thr_pending = false;
	update(serial);
}

static void serial_destroy(void *state)
{
	struct serial *serial = state;

	host_port_close(serial->host);
	free(serial);
}

static const struct bus_ops serial_ops = {1, serial_read, serial_write};

static int create_port(struct machine *machine, const char *spec, const char *name, uint16_t port,
                       unsigned irq)
{
	struct serial *serial = calloc(1, sizeof(*serial));
	int error;

	if (!serial)
		return error_set(ENOMEM, "out of memory");
	serial->machine = machine;
	error = machine_add_device(machine, name, serial, serial_reset, serial_destroy);
	if (error) {
		free(serial);
		return error;
	}
	irq_pin_connect(&serial->pin, &machine->irq[irq]);
	error = host_port_open(&serial->host, machine, spec, name, host_input, serial);
	return error ? error : bus_add(&machine->pio, port, 8, &serial_ops, serial, name);
}

int serial_create(struct machine *machine)
{
	const char *const *spec = machine->config.serial;
	int error = 0;

	if (spec[0])
		error = create_port(machine, spec[0], "COM1", PLATFORM_COM1, PLATFORM_IRQ_COM1);
	if (!error && spec[1])
		error = create_port(machine, spec[1], "COM2", PLATFORM_COM2, PLATFORM_IRQ_COM2);
	return error;
}
