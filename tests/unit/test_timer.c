/*
 * The machine's timers and lifecycle: order, cancellation, the real clock's event loop, stop and restart.
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_timer \
 *   tests/unit/test_timer.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_timer
 */
#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/dma.h"
#include "machine/event_loop.h"
#include "machine_fixture.h"

static unsigned order[64], fired;

struct numbered {
	struct machine_timer timer;
	unsigned number;
};

static void record(void *context)
{
	struct numbered *timer = context;

	order[fired++ % 64] = timer->number;
}

static void fire_in_order_of_deadline_then_arming(void **state)
{
	struct machine *machine = fixture_create(NULL);
	static const uint64_t deadline[] = {500, 100, 300, 100, 200, 300, 100};
	static const unsigned expected[] = {1, 3, 6, 4, 2, 5, 0};
	struct numbered timer[7];

	fired = 0;
	for (unsigned i = 0; i < 7; i++) {
		timer[i].number = i;
		assert_int_equal(timer_init(&timer[i].timer, &machine->timers, record, &timer[i]), 0);
		timer_arm(&timer[i].timer, deadline[i]);
	}
	assert_int_equal(machine_next_deadline(machine), 100);
	machine_run_timers(machine, 99);
	assert_int_equal(fired, 0);
	machine_run_timers(machine, 1000);
	assert_int_equal(fired, 7);
	assert_memory_equal(order, expected, sizeof(expected));
	assert_int_equal(machine_next_deadline(machine), TIMER_NEVER);
	machine_destroy(machine);
}

static void cancelled_and_rearmed(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct numbered timer[40];

	fired = 0;
	for (unsigned i = 0; i < 40; i++) {
		timer[i].number = i;
		assert_int_equal(timer_init(&timer[i].timer, &machine->timers, record, &timer[i]), 0);
		timer_arm(&timer[i].timer, 1000 - i * 7 % 40);
	}
	for (unsigned i = 0; i < 40; i++)
		if (i % 3)
			timer_cancel(&timer[i].timer);
		else
			timer_arm(&timer[i].timer, 2000 + i);
	machine_run_timers(machine, 1999);
	assert_int_equal(fired, 0);
	machine_run_timers(machine, 3000);
	assert_int_equal(fired, 14);
	for (unsigned i = 0; i < 14; i++)
		assert_int_equal(order[i], i * 3);
	machine_destroy(machine);
}

/* ---- with the event loop's thread ---- */

static struct machine *real_machine(enum machine_on_reset on_reset)
{
	struct machine_config config = {.memory_size = 2 << 20,
	                                .cpu_count = 2,
	                                .clock = ENGINE_CLOCK_REAL,
	                                .rtc_start = INT64_MIN,
	                                .on_reset = on_reset};
	struct cpu_model model = {.cpu_count = 2};
	struct machine *machine = NULL;

	assert_int_equal(machine_create(&machine, &config, &model, &fake_engine), 0);
	return machine;
}

static sem_t posted;

static void post(void *context)
{
	sem_post(&posted);
}

static void real_clock_fires(void **state)
{
	struct machine *machine = real_machine(MACHINE_ON_RESET_STOP);
	struct machine_timer timer;

	sem_init(&posted, 0, 0);
	timer_init(&timer, &machine->timers, post, NULL);
	assert_int_equal(event_loop_start(machine->loop), 0);
	for (unsigned i = 0; i < 100; i++) {
		uint64_t deadline = machine_now(machine) + 200000;

		timer_arm(&timer, deadline + 1000000000);
		timer_arm(&timer, deadline);
		sem_wait(&posted);
		assert_true(machine_now(machine) >= deadline);
	}
	timer_arm(&timer, 0); /* long past */
	sem_wait(&posted);
	event_loop_stop(machine->loop);
	machine_destroy(machine);
}

/* ---- who tells the queue's owner ---- */

static uint64_t told[16];
static unsigned telling;

static void tell(void *context, uint64_t deadline)
{
	void (*meanwhile)(void) = *(void (**)(void))context;

	assert_in_range(telling, 0, 15);
	told[telling++] = deadline;
	if (meanwhile && telling == 1)
		meanwhile();
}

static struct timer_queue queue;
static struct numbered timers[3];

static void queue_with(void (**meanwhile)(void))
{
	timer_queue_init(&queue);
	queue.wake = tell;
	queue.wake_context = meanwhile;
	telling = 0;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(timer_init(&timers[i].timer, &queue, record, &timers[i]), 0);
}

static void the_owner_is_told_of_earlier_deadlines_only(void **state)
{
	void (*nothing)(void) = NULL;

	queue_with(&nothing);
	timer_arm(&timers[0].timer, 1000000);
	timer_arm(&timers[1].timer, 2000000);
	timer_arm(&timers[2].timer, 999000); /* the same, as far as anybody notices */
	assert_int_equal(telling, 1);
	timer_arm(&timers[1].timer, 500000);
	assert_int_equal(telling, 2);
	assert_int_equal(told[1], 500000);
	timer_queue_serve(&queue);
	assert_ptr_equal(timer_queue_take(&queue, 500000), &timers[1].timer);
	timer_arm(&timers[1].timer, 600000); /* the owner is awake */
	assert_int_equal(telling, 2);
	assert_int_equal(timer_queue_served(&queue), 600000);
	assert_int_equal(telling, 3);
	assert_int_equal(told[2], 600000);
	timer_arm(&timers[0].timer, 550000);
	assert_int_equal(telling, 4);
}

static void arm_earlier(void)
{
	timer_arm(&timers[1].timer, 100000);
}

/* One thread's call comes to the owner after another one's for an earlier deadline. */
static void a_call_that_was_overtaken_is_made_good(void **state)
{
	void (*meanwhile)(void) = arm_earlier;

	queue_with(&meanwhile);
	timer_arm(&timers[0].timer, 1000000);
	assert_int_equal(told[telling - 1], 100000);
	assert_int_equal(timer_queue_next(&queue), 100000);
}

static void serve(void)
{
	timer_queue_serve(&queue);
}

static void the_owner_makes_good_what_came_while_it_served(void **state)
{
	void (*meanwhile)(void) = serve;

	queue_with(&meanwhile);
	timer_arm(&timers[0].timer, 1000000);
	assert_int_equal(timer_queue_served(&queue), 1000000);
	assert_int_equal(told[telling - 1], 1000000);
	/* Armed while the owner tells itself of a later one. */
	telling = 0;
	meanwhile = arm_earlier;
	timer_queue_serve(&queue);
	assert_int_equal(timer_queue_served(&queue), 100000);
	assert_int_equal(told[telling - 1], 100000);
}

static void post_mine(void *context)
{
	sem_post(context);
}

/* Threads arm and re-arm at once, each with one timer: none may be forgotten. */
static void *arming_thread(void *context)
{
	struct machine *machine = context;
	struct machine_timer timer, other;
	sem_t mine;

	sem_init(&mine, 0, 0);
	timer_init(&timer, &machine->timers, post_mine, &mine);
	timer_init(&other, &machine->timers, post_mine, &mine);
	timer.unlocked = other.unlocked = true;
	for (unsigned i = 0; i < 2000; i++) {
		struct timespec limit;

		timer_arm(&other, machine_now(machine) + 3600000000000);
		timer_arm(&timer, machine_now(machine) + i * 37 % 300 * 1000);
		clock_gettime(CLOCK_REALTIME, &limit);
		limit.tv_sec += 20;
		if (sem_timedwait(&mine, &limit))
			return "forgotten";
	}
	timer_cancel(&other);
	return NULL;
}

static void no_timer_of_several_threads_is_forgotten(void **state)
{
	struct machine *machine = real_machine(MACHINE_ON_RESET_STOP);
	pthread_t thread[4];

	assert_int_equal(event_loop_start(machine->loop), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, arming_thread, machine), 0);
	for (unsigned i = 0; i < 4; i++) {
		void *wrong;

		pthread_join(thread[i], &wrong);
		assert_null(wrong);
	}
	event_loop_stop(machine->loop);
	machine_destroy(machine);
}

/* An engine whose CPU 0 does one port write per run; the others wait for their kick. */
static unsigned loads, writes;
static atomic_int kicked;

static void waiting_kick(struct engine_vcpu *vcpu)
{
	kicked = 1;
}

static struct machine *running;

static enum engine_exit scripted_run(struct engine_vcpu *vcpu)
{
	if (pthread_equal(pthread_self(), running->vcpu[0].thread)) {
		if (writes++ == 0)
			running->host.pio_write(running, 0xcf9, 1, 0x06);
		else
			running->host.pio_write(running, 0xf4, 1, 3);
		return ENGINE_EXIT_KICKED;
	}
	while (!kicked)
		usleep(100);
	return ENGINE_EXIT_KICKED;
}

static void fake_reset(struct engine_vcpu *vcpu)
{
	kicked = 0;
}

static int count_loads(struct machine *machine, void *context)
{
	char *memory = machine_memory(machine, GPA(0x5000), 1);

	assert_int_equal(*memory, 0); /* RAM is zero at every load */
	*memory = 1;
	loads++;
	return 0;
}

static int run_scripted(enum machine_on_reset on_reset)
{
	struct engine_ops engine = fake_engine;
	int status;

	engine.vcpu_run = scripted_run;
	engine.vcpu_kick = waiting_kick;
	engine.vcpu_reset = fake_reset;
	loads = writes = 0;
	kicked = 0;
	running = real_machine(on_reset);
	running->engine = &engine;
	machine_set_loader(running, count_loads, NULL);
	status = machine_run(running);
	machine_destroy(running);
	return status;
}

static void reset_stops_with_status_0(void **state)
{
	assert_int_equal(run_scripted(MACHINE_ON_RESET_STOP), 0);
	assert_int_equal(loads, 1);
}

static void reset_restarts_where_configured(void **state)
{
	assert_int_equal(run_scripted(MACHINE_ON_RESET_RESTART), 3 << 1 | 1);
	assert_int_equal(loads, 2);
}

static int failing_loader(struct machine *machine, void *context)
{
	return error_set(22, "as planned");
}

static void failed_load_is_bad_input(void **state)
{
	struct machine *machine = fixture_create(NULL);

	machine_set_loader(machine, failing_loader, NULL);
	assert_int_equal(machine_run(machine), 2);
	machine_destroy(machine);
}

/* ---- bus and memory map ---- */

static void unclaimed_reads_as_ones(void **state)
{
	struct machine *machine = fixture_create(NULL);

	assert_int_equal(in(machine, 0x9999, 4), 0xffffffff);
	assert_int_equal(in(machine, 0xffff, 4), 0xffffffff);
	assert_int_equal(load(machine, 0xd0000000, 8), UINT64_MAX);
	assert_int_equal(load(machine, UINT64_MAX - 3, 8), UINT64_MAX);
	store(machine, UINT64_MAX, 8, 0);
	out(machine, 0xffff, 4, 0);
	machine_destroy(machine);
}

static void wide_access_is_split(void **state)
{
	struct machine *machine = fixture_create(NULL);

	out(machine, 0x70, 2, 0x5a40); /* index 40h, value 5Ah */
	assert_int_equal(in(machine, 0x70, 2), 0x5a40);
	machine_destroy(machine);
}

static void memory_map(void **state)
{
	struct machine *machine = fixture_create(NULL);

	assert_non_null(machine_memory(machine, GPA(0), 0xa0000));
	assert_null(machine_memory(machine, GPA(0xa0000), 1));
	assert_null(machine_memory(machine, GPA(0x9ffff), 2));
	assert_non_null(machine_memory(machine, GPA(0xc0000), 0x740000));
	assert_null(machine_memory(machine, GPA(0x7fffff), 2));
	machine_destroy(machine);
}

/* Memory of devices: beside RAM, over it, and gone again. */
static void memory_of_devices(void **state)
{
	static uint8_t rom[0x40000] __attribute__((aligned(4096)));
	struct machine *machine = fixture_create(NULL);
	uint8_t *ram = machine_memory(machine, GPA(0xc0000), 0x740000);

	machine_lock(machine);
	assert_int_equal(machine_map_memory(machine, GPA(0xfffc0000), 0x40000, rom, true), 0);
	assert_int_equal(machine_map_memory(machine, GPA(0xfffff000), 0x1000, rom, true), -EEXIST);
	assert_int_equal(machine_map_memory(machine, GPA(0xfffff), 0x1000, rom, true), -EINVAL);
	assert_int_equal(machine_map_memory(machine, GPA(0xf0000), 0x10000, rom, true), 0);
	assert_ptr_equal(machine_memory(machine, GPA(0xfffc1234), 4), rom + 0x1234);
	assert_ptr_equal(machine_memory(machine, GPA(0xf0000), 0x10000), rom);
	assert_ptr_equal(machine_memory(machine, GPA(0xe0000), 0x10000), ram + 0x20000);
	assert_ptr_equal(machine_memory(machine, GPA(0x100000), 0x700000), ram + 0x40000);
	assert_null(machine_memory(machine, GPA(0xeffff), 2));
	assert_int_equal(dma_write(machine, 0xeffff, "x", 2), -EFAULT);
	assert_null(dma_host(machine, 0xf0000, 1));
	rom[0] = 0x5a;
	ram[0x2ffff] = 0xa5;
	uint8_t both[2];

	assert_int_equal(dma_read(machine, 0xeffff, both, 2), 0);
	assert_memory_equal(both, "\xa5\x5a", 2);
	machine_unmap_memory(machine, GPA(0xf0000));
	machine_unmap_memory(machine, GPA(0xfffc0000));
	machine_unmap_memory(machine, GPA(0xfffc0000));
	assert_ptr_equal(machine_memory(machine, GPA(0xc0000), 0x740000), ram);
	assert_null(machine_memory(machine, GPA(0xfffc0000), 1));
	machine_unlock(machine);
	machine_destroy(machine);
}

static void memory_above_4_gib(void **state)
{
	struct machine_config config = {.memory_size = UINT64_C(5) << 30, .cpu_count = 1};
	struct cpu_model model = {.cpu_count = 1};
	struct machine *machine = NULL;

	assert_int_equal(machine_create(&machine, &config, &model, &fake_engine), 0);
	const uint64_t high = (UINT64_C(5) << 30) - PLATFORM_LOW_RAM_END;

	assert_non_null(machine_memory(machine, GPA(PLATFORM_LOW_RAM_END - 1), 1));
	assert_null(machine_memory(machine, GPA(PLATFORM_LOW_RAM_END), 1));
	assert_non_null(machine_memory(machine, GPA(UINT64_C(1) << 32), high));
	assert_null(machine_memory(machine, GPA((UINT64_C(1) << 32) + high), 1));
	machine_destroy(machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(fire_in_order_of_deadline_then_arming),
	    cmocka_unit_test(cancelled_and_rearmed),
	    cmocka_unit_test(real_clock_fires),
	    cmocka_unit_test(the_owner_is_told_of_earlier_deadlines_only),
	    cmocka_unit_test(a_call_that_was_overtaken_is_made_good),
	    cmocka_unit_test(the_owner_makes_good_what_came_while_it_served),
	    cmocka_unit_test(no_timer_of_several_threads_is_forgotten),
	    cmocka_unit_test(reset_stops_with_status_0),
	    cmocka_unit_test(reset_restarts_where_configured),
	    cmocka_unit_test(failed_load_is_bad_input),
	    cmocka_unit_test(unclaimed_reads_as_ones),
	    cmocka_unit_test(wide_access_is_split),
	    cmocka_unit_test(memory_map),
	    cmocka_unit_test(memory_of_devices),
	    cmocka_unit_test(memory_above_4_gib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
