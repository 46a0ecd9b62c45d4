/*
 * A hostile guest's accesses to VGA, display interface and keyboard controller, while a viewer draws all the time, keys
 * and pointer move, and the machine is reset now and then. Build with the sanitizers; the program itself checks that
 * pictures keep their bounds, that nothing waits without end, and that a reset brings text mode and keyboard back.
 * Arguments: iterations (default 200000), seed (default 1). The guest's part is the same for the same arguments.
 */
#include <linux/input-event-codes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "device/input/input.h"
#include "device/vga/vga.h"
#include "display/display.h"
#include "machine_fixture.h"
#include "random_source.h"

#define BAR2 0xc1000000u

static struct machine *machine;
static atomic_bool done;
static atomic_uint pictures, sizes;

static void look(void)
{
	static _Thread_local unsigned width;
	const struct surface *surface = display_acquire(machine->display);
	uint32_t sum = 0;

	if (!surface->width || !surface->height || surface->width > SURFACE_WIDTH_MAX ||
	    surface->height > SURFACE_HEIGHT_MAX) {
		fprintf(stderr, "a picture of %u x %u\n", surface->width, surface->height);
		abort();
	}
	for (unsigned y = 0; y < surface->height; y++) /* the sanitizer looks at both ends */
		sum += surface->pixels[(size_t)y * surface->width] +
		       surface->pixels[(size_t)y * surface->width + surface->width - 1] +
		       (uint32_t)surface->changed[y];
	atomic_fetch_add(&pictures, 1 + (sum & 0));
	if (surface->width != width)
		atomic_fetch_add(&sizes, 1);
	width = surface->width;
	display_release(machine->display);
}

static void *viewer(void *argument)
{
	while (!atomic_load(&done))
		look();
	return NULL;
}

static unsigned some_value(void)
{
	switch (below(4)) {
	case 0:
		return 0;
	case 1:
		return 0xffffffff;
	case 2:
		return 1u << below(32);
	default:
		return (unsigned)any();
	}
}

static unsigned some_size(void)
{
	static const unsigned sizes_of_modes[] = {1, 7, 64, 320, 640, 801, 1600, 2560, 4095, 65535};

	return below(3) ? sizes_of_modes[below(10)] : below(3000);
}

/* Registers behind an index: often plausible, sometimes anything. */
static void touch_register(void)
{
	static const struct {
		uint16_t port;
		unsigned count;
	} ports[] = {{0x3c4, 8}, {0x3ce, 16}, {0x3d4, 32}, {0x3b4, 32}};
	unsigned i = below(4);

	out(machine, ports[i].port, 2, below(ports[i].count) | (some_value() & 0xff) << 8);
}

static void touch_dispi(void)
{
	static const unsigned depths[] = {4, 8, 15, 16, 24, 32, 0, 12};
	unsigned index = below(12), value = some_value() & 0xffff;

	if (index == DISPI_BPP)
		value = depths[below(8)];
	else if (index == DISPI_ENABLE)
		value = below(8) ? DISPI_ENABLED | (some_value() & 0xe0) : 0;
	else if (below(2))
		value = some_size();
	if (below(2)) {
		out(machine, 0x1ce, 2, index);
		out(machine, 0x1cf, 2, value);
	} else {
		store(machine, BAR2 + 0x500 + 2 * index, 2, value);
	}
}

static void touch_input(void)
{
	unsigned chord[3] = {below(300), below(128) + 1, KEY_A};

	machine_lock(machine);
	switch (below(4)) {
	case 0:
		input_key(machine->input, below(300), below(2));
		break;
	case 1:
		input_pointer(machine->input, some_size(), some_size(), some_size(), some_size(), below(8),
		              (int)below(3) - 1);
		break;
	case 2:
		input_move(machine->input, (int)some_value(), (int)some_value(), below(256),
		           (int)some_value());
		break;
	default:
		input_send_keys(machine->input, chord, below(4), below(100000));
		break;
	}
	machine_unlock(machine);
}

static void step(void)
{
	switch (below(16)) {
	case 0 ... 2:
		touch_register();
		break;
	case 3 ... 4:
		touch_dispi();
		break;
	case 5:
		out(machine, (uint16_t)(0x3b0 + below(48)), 1u << below(3), some_value());
		in(machine, (uint16_t)(0x3b0 + below(48)), 1u << below(3));
		break;
	case 6 ... 8:
		store(machine, VGA_WINDOW - 4 + below(VGA_WINDOW_SIZE + 8), 1u << below(4), any());
		break;
	case 9:
		load(machine, VGA_WINDOW - 4 + below(VGA_WINDOW_SIZE + 8), 1u << below(4));
		break;
	case 10:
		store(machine, BAR2 + below(4096), 1u << below(4), below(2) ? any() : 0xbebebebe);
		load(machine, BAR2 + below(4096), 1u << below(4));
		break;
	case 11 ... 12:
		out(machine, below(2) ? 0x64 : 0x60, 1, below(2) ? some_value() & 0xff : 0xd4);
		break;
	case 13:
		in(machine, below(2) ? 0x64 : 0x60, 1);
		pass(machine, below(300000));
		break;
	case 14:
		touch_input();
		break;
	default:
		if (below(64) == 0)
			look();
		if (below(4096) == 0) {
			machine_lock(machine);
			machine_reset_devices(machine);
			machine_unlock(machine);
		}
		break;
	}
	fake_vm.msi_count = 0;
}

static void set_up_bar(void)
{
	out(machine, 0xcf8, 4, 0x80000818);
	out(machine, 0xcfc, 4, BAR2);
	out(machine, 0xcf8, 4, 0x80000804);
	out(machine, 0xcfc, 4, 2);
}

static void check_usable(void)
{
	const struct surface *surface;

	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	set_up_bar();
	store(machine, 0xb8000, 2, 0x0741);
	surface = display_acquire(machine->display);
	if (surface->width != 720 || surface->height != 400) {
		fprintf(stderr, "no text mode after a reset\n");
		abort();
	}
	display_release(machine->display);
	machine_lock(machine);
	input_key(machine->input, KEY_A, true);
	machine_unlock(machine);
	if (!(in(machine, 0x64, 1) & 1) || in(machine, 0x60, 1) != 0x1e) {
		fprintf(stderr, "no key after a reset\n");
		abort();
	}
}

int main(int argc, char **argv)
{
	uint64_t iterations = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
	struct machine_config config = {.memory_size = 8u << 20,
	                                .cpu_count = 1,
	                                .clock = ENGINE_CLOCK_DETERMINISTIC,
	                                .vga = MACHINE_VGA_STD};
	struct cpu_model model = {.cpu_count = 1};
	pthread_t thread;

	seed_from(argc, argv, 2);
	if (machine_create(&machine, &config, &model, &fake_engine)) {
		fprintf(stderr, "%s\n", error_text());
		return 77; /* no video BIOS here */
	}
	set_up_bar();
	if (pthread_create(&thread, NULL, viewer, NULL))
		abort();
	for (uint64_t i = 0; i < iterations; i++) {
		step();
		if (i % 16384 == 16383)
			check_usable();
	}
	check_usable();
	atomic_store(&done, true);
	pthread_join(thread, NULL);
	machine_destroy(machine);
	printf("%llu accesses, %u pictures, %u sizes\n", (unsigned long long)iterations,
	       atomic_load(&pictures), atomic_load(&sizes));
	return 0;
}
