/*
 * Random drivers of virtio devices: registers through all of their ways (modern, legacy, the window in
 * configuration space), split and packed queues set up more or less well, descriptors and rings of more or less sense,
 * requests that the devices know. Build with the sanitizers, which find what is wrong; the program itself
 * checks that a good driver is served after it. Arguments: steps (default 200000), seed (default 1). The same
 * arguments give the same run.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "random_source.h"
#include "virtio_driver.h"

#define QUEUE_AREA 0x100000u /* rings: 64 KiB for each of a device's queues */
#define DATA       0x300000u
#define DATA_SIZE  0x80000u
#define DEVICES    8

static struct machine *machine;
static struct virtio_driver driver[DEVICES];
static struct queue_driver queue[DEVICES][4];
static struct packed_driver packed_queue[DEVICES][4];
static bool packed[DEVICES]; /* which of them is used */
static unsigned devices;
static uint64_t answers, packed_answers;
static char folder[] = "/tmp/nestor-fuzz-virtio-XXXXXX";

static uint64_t some_value(void)
{
	switch (below(5)) {
	case 0:
		return below(4);
	case 1:
		return UINT64_MAX;
	case 2:
		return UINT64_C(1) << below(64);
	case 3:
		return below(65536);
	default:
		return any();
	}
}

static void find_devices(void)
{
	static const uint16_t ids[] = {0x1001, 0x1003, 0x1005, 0x1009, 0x1000, 0x1052};

	devices = 0;
	if (pci_setup(machine))
		abort();
	for (unsigned i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		if (virtio_find(&driver[devices], machine, ids[i]))
			devices++;
}

/* ---- a driver that starts properly, most of the time ---- */

static uint64_t queue_area(unsigned device, unsigned index)
{
	return QUEUE_AREA + 0x10000 * (device * 4 + index);
}

static void start_device(unsigned d)
{
	struct virtio_driver *v = &driver[d];
	uint64_t features;
	unsigned count;

	/* Its BARs may have been moved or switched off: then it stays so until the machine's reset. */
	set_common(v, 0x14, 1, 0);
	count = common(v, 0x12, 2);
	if (common(v, 0x14, 1) || !count || count > 32)
		return;
	features = virtio_features(v);
	if (below(4) == 0)
		features &= any() | FEATURE_VERSION_1;
	if (below(2))
		features &= ~FEATURE_PACKED;
	pci_write(machine, v->slot, 4, 2, 7);
	packed[d] = virtio_negotiate(v, features) && features & FEATURE_PACKED;
	for (unsigned i = 0; i < 4 && i < count; i++) {
		set_common(v, 0x16, 2, i);
		if (packed[d])
			virtio_packed_queue(v, &packed_queue[d][i], i,
			                    below(2) ? common(v, 0x18, 2)
			                             : 1 + (unsigned)below(common(v, 0x18, 2)),
			                    queue_area(d, i));
		else
			virtio_queue(v, &queue[d][i], i, common(v, 0x18, 2), queue_area(d, i));
	}
	virtio_start(v);
}

static void start_legacy(unsigned d)
{
	struct virtio_driver *v = &driver[d];
	unsigned size;

	if (!v->legacy)
		return;
	packed[d] = false;
	out(machine, v->legacy + 18, 1, 0);
	out(machine, v->legacy + 18, 1, 3);
	out(machine, v->legacy + 4, 4, (uint32_t)(below(2) ? any() : in(machine, v->legacy, 4)));
	for (unsigned i = 0; i < 4; i++) {
		out(machine, v->legacy + 14, 2, i);
		size = in(machine, v->legacy + 12, 2);
		if (!size || size > 256)
			break;
		queue_driver_init(&queue[d][i], machine, size, queue_area(d, i));
		out(machine, v->legacy + 8, 4, (uint32_t)(queue_area(d, i) >> 12));
	}
	out(machine, v->legacy + 18, 1, 7);
}

/* ---- queues ---- */

static uint64_t some_gpa(void)
{
	switch (below(24)) {
	case 0:
		return any();
	case 1:
		return below(machine->config.memory_size + 4096);
	case 2:
		return 0x9f000 + below(0x22000); /* around the hole below 1 MiB */
	case 3:
		return queue_area((unsigned)below(DEVICES), (unsigned)below(4)) + below(0x4000);
	default:
		return DATA + below(DATA_SIZE);
	}
}

static uint32_t some_size(void)
{
	static const uint32_t usual[] = {1, 16, 512, 4096, 20, 8, 65536, 1024};

	switch (below(12)) {
	case 0:
		return (uint32_t)some_value();
	case 1:
		return 0;
	case 2:
		return (uint32_t)below(0x8000);
	default:
		return usual[below(8)];
	}
}

/* What block requests and 9P messages begin with. */
static void fill_data(uint64_t gpa)
{
	static const uint8_t types_9p[] = {100, 104, 110, 12, 14, 116, 118, 40, 24, 72, 76, 120, 8, 50};
	static const uint8_t types_blk[] = {0, 1, 4, 8, 11, 13, 2};
	uint8_t bytes[64];
	uint8_t *host = machine_memory(machine, GPA(gpa), sizeof(bytes));

	if (!host)
		return;
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(below(3) ? 0 : any());
	if (below(2)) {
		memset(bytes, 0, 16);
		bytes[0] = types_blk[below(7)];
		bytes[8] = (uint8_t)any();
		bytes[16 + 8] = (uint8_t)below(9);
	} else {
		bytes[0] = (uint8_t)(7 + below(60));
		bytes[1] = bytes[2] = bytes[3] = 0;
		bytes[4] = types_9p[below(sizeof(types_9p))];
		bytes[7] = (uint8_t)below(4);
		bytes[8] = bytes[9] = bytes[10] = 0;
	}
	memcpy(host, bytes, sizeof(bytes));
}

/* A chain: readable pieces, then writable ones, mostly; now and then through a table. */
static void add_chain(struct queue_driver *q)
{
	unsigned readable = (unsigned)below(4), count = readable + (unsigned)below(4);
	uint64_t table = q->desc;
	uint16_t head = (uint16_t)below(q->size), index = head;

	if (count == 0)
		count = 1;
	if (below(4) == 0) {
		table = DATA + below(DATA_SIZE / 16) * 16;
		write_desc(machine, q->desc, head, table, 16 * (count + (unsigned)below(2)),
		           (uint16_t)(DESC_INDIRECT | (below(32) ? 0 : any())), (uint16_t)any());
		index = 0;
	}
	for (unsigned i = 0; i < count; i++) {
		uint16_t next = table == q->desc ? (uint16_t)((index + 1) % q->size) : (uint16_t)(index + 1);
		uint64_t gpa = some_gpa();
		uint16_t flags =
		    (uint16_t)((i >= readable ? DESC_WRITE : 0) | (i + 1 < count ? DESC_NEXT : 0));

		if (i == 0 && readable)
			fill_data(gpa = DATA + below(DATA_SIZE));
		write_desc(machine, table, index, gpa,
		           i == 0 && readable && below(4) ? 16 + 48 * (uint32_t)below(2) : some_size(),
		           (uint16_t)(below(64) ? flags : any()), (uint16_t)(below(64) ? next : any()));
		index = next;
	}
	queue_offer(q, (uint16_t)(below(64) ? head : any()));
	if (below(200) == 0)
		q->avail_index += (uint16_t)any();
	if (below(8))
		queue_publish(q);
}

/* The same in a packed queue: the first descriptor last, mostly, and on the right lap. */
static void add_packed_chain(struct packed_driver *q)
{
	unsigned readable = (unsigned)below(4), count = readable + (unsigned)below(4),
	         first = q->next_available;
	bool indirect = below(4) == 0;
	uint64_t table = DATA + below(DATA_SIZE / 16) * 16;
	uint16_t id = q->next_id++ % 1024, first_flags = 0;

	count = count ? count : 1;
	if (packed_outstanding(q) + (indirect ? 1 : count) > q->size && below(64))
		return; /* else it writes over what the device still has */
	for (unsigned i = 0; i < count; i++) {
		uint16_t flags = (uint16_t)((i >= readable ? DESC_WRITE : 0) |
		                            (i + 1 < count && !indirect ? DESC_NEXT : 0));
		uint64_t gpa = some_gpa();
		uint32_t size = some_size();

		if (i == 0 && readable) {
			fill_data(gpa = DATA + below(DATA_SIZE));
			size = below(4) ? 16 + 48 * (uint32_t)below(2) : size;
		}
		flags = (uint16_t)(below(64) ? flags : any());
		if (indirect) {
			write_desc(machine, table, i, gpa, size, (uint16_t)any(), flags);
			continue;
		}
		flags |= packed_lap(q);
		first_flags = i ? first_flags : flags;
		packed_write(q, q->next_available, gpa, size, id, i ? flags : 0);
		packed_move(q, &q->next_available, &q->available_counter, 1);
	}
	if (indirect) {
		first_flags = (uint16_t)(packed_lap(q) | DESC_INDIRECT | (below(32) ? 0 : any()));
		packed_write(q, first, table, 16 * (count + (uint32_t)below(2)), id, 0);
		packed_move(q, &q->next_available, &q->available_counter, 1);
	}
	q->slots[id] = (uint16_t)(indirect ? 1 : count);
	put16(machine, q->ring + 16 * first + 14, (uint16_t)(below(64) ? first_flags : any()));
}

static bool use_packed_queue(unsigned d, unsigned index)
{
	struct packed_driver *q = &packed_queue[d][index];
	uint32_t size;
	uint16_t id;

	if (!q->size)
		return false;
	for (unsigned i = 0; i < 1 + below(4); i++)
		add_packed_chain(q);
	if (below(4) == 0)
		packed_set_event(q, (uint16_t)(below(2) ? any() : q->next_used | (uint16_t)(q->used_counter << 15)), (uint16_t)below(4));
	for (unsigned i = 0; i < 16 && packed_take(q, &id, &size); i++)
		packed_answers++;
	return true;
}

static bool use_split_queue(unsigned d, unsigned index)
{
	struct queue_driver *q = &queue[d][index];

	if (!q->size)
		return false;
	for (unsigned i = 0; i < 1 + below(4); i++)
		add_chain(q);
	queue_publish(q);
	if (below(4) == 0)
		queue_set_used_event(q, (uint16_t)any());
	answers += (uint16_t)(queue_used_index(q) - q->used_index);
	q->used_index = queue_used_index(q);
	return true;
}

static void use_queue(unsigned d)
{
	unsigned index = (unsigned)below(4);

	if (!(packed[d] ? use_packed_queue(d, index) : use_split_queue(d, index)))
		return;
	if (below(3) && driver[d].legacy)
		out(machine, driver[d].legacy + 16, 2, index);
	else
		virtio_kick(&driver[d], below(32) ? index : (unsigned)some_value() & 0xff);
}

/* ---- registers ---- */

static void touch_registers(struct virtio_driver *v)
{
	uint64_t base = v->common & ~UINT64_C(0xfff),
	         address = base + 0x1000 * below(4) + below(below(2) ? 64 : 4096);
	unsigned window = v->pci_window;

	switch (below(8)) {
	case 0 ... 1:
		load(machine, address, 1u << below(4));
		break;
	case 2 ... 3:
		store(machine, address, 1u << below(4), some_value());
		break;
	case 4:
		if (v->legacy)
			out(machine, (uint16_t)(v->legacy + below(64)), 1u << below(3),
			    (uint32_t)some_value());
		break;
	case 5:
		if (v->legacy)
			in(machine, (uint16_t)(v->legacy + below(64)), 1u << below(3));
		break;
	case 6:
		pci_write(machine, v->slot, window + 4, 1, below(4) ? 4 : (uint32_t)any());
		pci_write(machine, v->slot, window + 8, 4,
		          (uint32_t)(below(4) ? 0x1000 * below(4) + below(64) : any()));
		pci_write(machine, v->slot, window + 12, 4, (uint32_t)(below(8) ? 1u << below(3) : any()));
		if (below(2))
			pci_write(machine, v->slot, window + 16, 4, (uint32_t)some_value());
		else
			pci_read(machine, v->slot, window + 16, 4);
		break;
	default:
		if (below(20) == 0)
			pci_write(machine, v->slot, (unsigned)below(256), 1u << below(3),
			          (uint32_t)some_value());
		break;
	}
}

static void step(void)
{
	unsigned d = (unsigned)below(devices);

	switch (below(16)) {
	case 0:
		if (below(4) == 0)
			start_device(d);
		else if (below(4) == 0)
			start_legacy(d);
		break;
	case 1 ... 3:
		touch_registers(&driver[d]);
		break;
	case 4:
		pass(machine, below(2000000));
		break;
	case 5:
		if (below(400) == 0) {
			machine_lock(machine);
			machine_reset_devices(machine);
			machine_unlock(machine);
			find_devices();
		}
		break;
	default:
		use_queue(d);
		/*
		 * Most of what a random driver does breaks its device sooner or later, or leaves a packed
		 * ring out of step.
		 */
		if ((common(&driver[d], 0x14, 1) & 0x40 && below(4) == 0) || (packed[d] && below(32) == 0))
			start_device(d);
		break;
	}
	fake_vm.msi_count = 0;
}

static void check_usable(void)
{
	uint32_t size;
	uint16_t id;

	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	find_devices();
	for (unsigned d = 0; d < devices; d++) {
		packed[d] = below(2);
		if (!virtio_negotiate(&driver[d], FEATURE_VERSION_1 | (packed[d] ? FEATURE_PACKED : 0))) {
			fprintf(stderr, "device %u takes no features after a reset\n", d);
			abort();
		}
		if (packed[d])
			virtio_packed_queue(&driver[d], &packed_queue[d][0], 0, 8, queue_area(d, 0));
		else
			virtio_queue(&driver[d], &queue[d][0], 0, 8, queue_area(d, 0));
		virtio_start(&driver[d]);
	}
	/* The third is the entropy device, which answers anything. */
	if (packed[2])
		packed_add(&packed_queue[2][0], (struct buffer[]){{DATA, 8, true}}, 1);
	else
		queue_add(&queue[2][0], (struct buffer[]){{DATA, 8, true}}, 1);
	virtio_kick(&driver[2], 0);
	if (packed[2] ? !packed_take(&packed_queue[2][0], &id, &size) : queue_used_index(&queue[2][0]) != 1) {
		fprintf(stderr, "a good driver is not served any more\n");
		abort();
	}
}

int main(int argc, char **argv)
{
	uint64_t steps = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
	struct machine_config config = fixture_config("null");
	char share[64], disk[64], command[128];

	seed_from(argc, argv, 2);
	if (!mkdtemp(folder))
		abort();
	snprintf(share, sizeof(share), "%s/share", folder);
	snprintf(disk, sizeof(disk), "%s/disk", folder);
	if (mkdir(share, 0700) || !fopen(disk, "w") || truncate(disk, 1 << 20))
		abort();
	config.disk[0] = (struct disk_config){.file = disk, .format = "raw", .boot_index = -1};
	config.disk_count = 1;
	if (argc > 3)
		config.clock = ENGINE_CLOCK_REAL;
	config.console[0] = "null";
	config.rng = true;
	config.share[0] = (struct share_config){.directory = share, .tag = "share"};
	config.share_count = 1;
	machine = fixture_create_from(&config);
	find_devices();
	for (unsigned d = 0; d < devices; d++)
		start_device(d);
	for (uint64_t i = 0; i < steps; i++) {
		step();
		if (i % 65536 == 65535)
			check_usable();
	}
	check_usable();
	machine_destroy(machine);
	printf("%llu steps, %llu answers in split and %llu in packed queues\n", (unsigned long long)steps,
	       (unsigned long long)answers, (unsigned long long)packed_answers);
	snprintf(command, sizeof(command), "chmod -R u+rwx %s; rm -rf %s", folder, folder);
	return system(command) != 0;
}
