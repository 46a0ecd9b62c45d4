/*
 * Network cards with drivers that do anything: registers, rings and descriptors that mean something mixed
 * with some that do not, frames of all kinds on the wire, time, resets. The sanitizers find what is wrong;
 * the program itself checks that a card works after all that. Arguments: model (virtio, e1000e), iterations
 * (default 100000), seed (default 1). The same arguments give the same accesses.
 */
#include "device/network/e1000e.h"
#include "net_fixture.h"
#include "queue_driver.h"
#include "random_source.h"

#define MEMORY 0xe1000000u /* the large BAR */
#define MSIX   0xe1100000u
#define PORTS  0xc000u
#define AREA   0x100000u /* rings and buffers: from here, this much */
#define SIZE   0x200000u

static struct machine *machine;

static uint64_t some_address(void)
{
	return below(40) ? AREA + below(SIZE) : any();
}

static uint32_t some_value(void)
{
	switch (below(6)) {
	case 0:
		return 0;
	case 1:
		return UINT32_MAX;
	case 2:
		return 1u << below(32);
	case 3:
		return (uint32_t)below(256);
	case 4:
		return (uint32_t)some_address();
	default:
		return (uint32_t)any();
	}
}

static void place_bars(void)
{
	config_write(machine, 0x10, 4, MEMORY); /* or, of virtio's, ports */
	config_write(machine, 0x14, 4, MSIX);
	config_write(machine, 0x18, 4, PORTS + 0x800);
	config_write(machine, 0x1c, 4, MSIX);
	config_write(machine, 0x20, 4, MEMORY);
	config_write(machine, 0x24, 4, 0);
	config_write(machine, 4, 2, 7);
}

static void fuzz_config(void)
{
	unsigned offset = (unsigned)below(256);

	if (offset >= 0x10 && offset < 0x34)
		config_read(machine, offset & ~3u, 4);
	else
		config_write(machine, offset & ~1u, 2, some_value());
	if (below(8) == 0)
		place_bars();
}

/* Bytes that are sometimes a good frame. */
static void fuzz_wire(void)
{
	static uint8_t frame[9600];
	size_t size = 14 + below(below(8) ? 1600 : 9500);

	for (unsigned frames = 1 + (unsigned)below(8); frames; frames--) {
		if (below(4)) {
			size = make_ipv4(frame, below(2), below(below(8) ? 1400 : 9000));
		} else {
			for (size_t i = 0; i < size; i++)
				frame[i] = (uint8_t)any();
		}
		for (unsigned flips = below(2) ? 0 : (unsigned)below(5); flips; flips--)
			frame[below(size < 80 ? size : 80)] = (uint8_t)any();
		if (below(6) == 0)
			memset(frame, 0xff, 6);
		send(wire, frame, size, 0);
	}
	pass(machine, 1000000);
	while (recv(wire, frame, sizeof(frame), 0) > 0)
		;
}

/* ---- 82574L ---- */

static void fuzz_rings(void)
{
	static const unsigned rings[] = {R_RX_RING, R_RX_RING + 0x100, R_TX_RING, R_TX_RING + 0x100};
	unsigned ring = rings[below(4)];

	store(machine, MEMORY + ring + RING_BAL, 4, (uint32_t)some_address() & ~15u);
	store(machine, MEMORY + ring + RING_BAH, 4, below(50) ? 0 : any() & UINT32_MAX);
	store(machine, MEMORY + ring + RING_LEN, 4, below(4) ? 128u << below(6) : some_value());
	store(machine, MEMORY + ring + RING_HEAD, 4, below(4) ? below(16) : some_value());
}

static void fuzz_descriptors(void)
{
	static const unsigned rings[] = {R_RX_RING, R_TX_RING};
	unsigned ring = rings[below(2)] + 0x100 * (unsigned)below(2);
	uint64_t base = load(machine, MEMORY + ring + RING_BAL, 4);

	for (unsigned i = 0; i < 32; i++) {
		uint32_t word[4] = {(uint32_t)some_address(), below(100) ? 0 : (uint32_t)any(),
		                    (uint32_t)any(), (uint32_t)any()};
		uint8_t *at = machine_memory(machine, GPA(base + 16 * i), 16);

		if (below(3)) /* a short piece */
			word[2] = (word[2] & 0xff000000) |
			          (below(2) ? 0x20000000 | (uint32_t)below(2) << 20 : 0) |
			          (uint32_t)below(1600);
		if (at)
			memcpy(at, word, sizeof(word));
	}
	store(machine, MEMORY + ring + RING_TAIL, 4, below(8) ? below(33) : some_value());
}

static void fuzz_e1000e(void)
{
	static const unsigned often[] = {R_CTRL,  R_RCTL,   R_TCTL,   R_IMS,      R_IMC,  R_ICS,
	                                 R_ICR,   R_IVAR,   R_EIAC,   R_CTRL_EXT, R_MDIC, R_EERD,
	                                 R_RFCTL, R_RXCSUM, R_PSRCTL, R_MRQC,     R_ITR,  R_EITR + 4,
	                                 R_RA,    R_RA + 4, R_VFTA,   R_TIMINCA};
	unsigned offset =
	    below(3) ? often[below(sizeof(often) / sizeof(often[0]))] : (unsigned)below(E1000E_REGISTERS);
	uint32_t value = some_value();

	switch (below(12)) {
	case 0 ... 3:
		if (offset == R_CTRL && below(8))
			value &= ~CTRL_RST;
		if (offset == R_RCTL && below(4))
			value |= RCTL_EN | RCTL_UPE | RCTL_MPE | RCTL_BAM;
		if (offset == R_TCTL && below(4))
			value |= TCTL_EN;
		store(machine, MEMORY + offset, below(8) ? 4 : 1u << below(4), value);
		break;
	case 4:
		load(machine, MEMORY + offset, 1u << below(4));
		break;
	case 5:
		fuzz_rings();
		break;
	case 6 ... 7:
		fuzz_descriptors();
		break;
	case 8:
		out(machine, (uint16_t)(PORTS + 0x800 + below(36)), 1u << below(3),
		    below(2) ? (uint32_t)below(E1000E_REGISTERS) : some_value());
		break;
	default:
		store(machine, MSIX + below(4096), 1u << below(4), some_value());
		break;
	}
}

static bool e1000e_works(void)
{
	static uint8_t frame[300], got[300];
	size_t size = make_ipv4(frame, false, 200);
	uint64_t at = AREA + 0x10000;
	uint32_t words[4] = {(uint32_t)at, 0, (uint32_t)size | 0x01000000, 0};

	memcpy(memory_at(machine, AREA), words, 16);
	memcpy(memory_at(machine, AREA + 0x1000), (uint64_t[]){at + 0x1000, 0}, 16);
	memcpy(memory_at(machine, at), frame, size);
	store(machine, MEMORY + R_TX_RING + RING_BAL, 4, AREA);
	store(machine, MEMORY + R_TX_RING + RING_LEN, 4, 128);
	store(machine, MEMORY + R_TCTL, 4, TCTL_EN);
	store(machine, MEMORY + R_TX_RING + RING_TAIL, 4, 1);
	store(machine, MEMORY + R_RX_RING + RING_BAL, 4, AREA + 0x1000);
	store(machine, MEMORY + R_RX_RING + RING_LEN, 4, 128);
	store(machine, MEMORY + R_RX_RING + RING_TAIL, 4, 1);
	store(machine, MEMORY + R_RCTL, 4, RCTL_EN | RCTL_UPE | RCTL_SECRC);
	wire_send(machine, frame, size);
	return recv(wire, got, sizeof(got), 0) == (ssize_t)size && !memcmp(got, frame, size) &&
	       !memcmp(memory_at(machine, at + 0x1000), frame, size);
}

/* ---- virtio ---- */

static struct queue_driver queue[3];

static void start_virtio(void)
{
	config_write(machine, 0x10, 4, PORTS);
	out(machine, PORTS + 18, 1, 0);
	out(machine, PORTS + 18, 1, 3);
	out(machine, PORTS + 4, 4, below(3) ? in(machine, PORTS, 4) & (uint32_t)any() : some_value());
	for (unsigned i = 0; i < 3; i++) {
		out(machine, PORTS + 14, 2, i);
		queue_driver_init(&queue[i], machine, i < 2 ? 256 : 64, AREA + 0x10000 * i);
		out(machine, PORTS + 8, 4, (uint32_t)(queue[i].desc >> 12));
	}
	out(machine, PORTS + 18, 1, 7);
}

static void fuzz_chains(void)
{
	unsigned index = (unsigned)below(3), count = 1 + (unsigned)below(4);
	struct buffer buffer[4];

	for (unsigned chains = 1 + (unsigned)below(20); chains; chains--) {
		for (unsigned i = 0; i < count; i++) {
			buffer[i] = (struct buffer){AREA + 0x40000 + below(SIZE - 0x60000),
			                            (uint32_t)below(below(4) ? 2000 : 70000),
			                            index == 0 || (index == 2 && i == count - 1)};
			if (below(500) == 0)
				buffer[i].gpa = any();
		}
		/* What begins a frame or a command, as often as not in a plausible form. */
		if (index && buffer[0].gpa < AREA + SIZE - 64) {
			uint8_t *at = memory_at(machine, buffer[0].gpa);

			for (unsigned i = 0; i < 24; i++)
				at[i] = (uint8_t)(below(2) ? below(8) : any());
			if (index == 1 && below(2))
				make_ipv4(at + 12, below(2), 0);
		}
		queue_add(&queue[index], buffer, count);
	}
	out(machine, PORTS + 16, 2, index);
}

static void fuzz_virtio(void)
{
	unsigned which = (unsigned)below(3);

	switch (below(10)) {
	case 0:
		if (below(10) == 0)
			start_virtio();
		break;
	case 1 ... 4:
		fuzz_chains();
		break;
	case 5: /* rings and tables */
		if (below(20) == 0)
			memory_at(machine, queue[which].desc)[below(4096 + 2048)] = (uint8_t)any();
		break;
	case 6:
		if (below(20) == 0)
			out(machine, (uint16_t)(PORTS + below(48)), 1u << below(3), some_value());
		else
			in(machine, (uint16_t)(PORTS + below(48)), 1u << below(3));
		break;
	case 7:
		if (below(20) == 0)
			store(machine, MEMORY + below(0x4000), 1u << below(4), some_value());
		else
			load(machine, MEMORY + below(0x4000), 1u << below(4));
		break;
	default:
		store(machine, MSIX + below(4096), 1u << below(4), some_value());
		break;
	}
}

static bool virtio_works(void)
{
	static uint8_t frame[300], got[300];
	size_t size = make_ipv4(frame, false, 200);
	uint64_t at = AREA + 0x80000;

	config_write(machine, 0x10, 4, PORTS);
	out(machine, PORTS + 18, 1, 3);
	out(machine, PORTS + 4, 4, 0);
	for (unsigned i = 0; i < 2; i++) {
		out(machine, PORTS + 14, 2, i);
		queue_driver_init(&queue[i], machine, 256, AREA + 0x10000 * i);
		out(machine, PORTS + 8, 4, (uint32_t)(queue[i].desc >> 12));
	}
	out(machine, PORTS + 18, 1, 7);
	memset(memory_at(machine, at), 0, 10);
	memcpy(memory_at(machine, at + 10), frame, size);
	queue_add(&queue[0], &(struct buffer){at + 0x1000, 2000, true}, 1);
	queue_add(&queue[1], &(struct buffer){at, (uint32_t)(10 + size), false}, 1);
	out(machine, PORTS + 16, 2, 0);
	out(machine, PORTS + 16, 2, 1);
	wire_send(machine, frame, size);
	return recv(wire, got, sizeof(got), 0) == (ssize_t)size && !memcmp(got, frame, size) &&
	       !memcmp(memory_at(machine, at + 0x1000 + 10), frame, size);
}

/* ---- */

static void check_works(bool virtio)
{
	static uint8_t frame[9600];

	pass(machine, 100000000);
	while (recv(wire, frame, sizeof(frame), 0) > 0)
		;
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	pass(machine, 100000000);
	place_bars();
	if (virtio ? virtio_works() : e1000e_works())
		return;
	fprintf(stderr, "the card does not work after a reset\n");
	abort();
}

int main(int argc, char **argv)
{
	bool virtio = argc < 2 || !strcmp(argv[1], "virtio");
	uint64_t iterations = argc > 2 ? strtoull(argv[2], NULL, 0) : 100000;

	seed_from(argc, argv, 3);
	machine = net_fixture_create(virtio ? NET_MODEL_VIRTIO : NET_MODEL_E1000E);
	place_bars();
	if (virtio)
		start_virtio();
	for (uint64_t i = 1; i <= iterations; i++) {
		if (virtio)
			fuzz_virtio();
		else
			fuzz_e1000e();
		if (below(64) == 0)
			fuzz_wire();
		if (below(200) == 0)
			fuzz_config();
		if (i % 16384 == 0) {
			check_works(virtio);
			if (virtio)
				start_virtio();
		}
		fake_vm.msi_count = 0;
	}
	check_works(virtio);
	net_fixture_destroy(machine);
	printf("%llu steps\n", (unsigned long long)iterations);
	return 0;
}
