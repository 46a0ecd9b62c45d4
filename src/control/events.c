#include "control/events.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/error.h"

int event_ring_init(struct event_ring *ring)
{
	memset(ring, 0, sizeof(*ring));
	pthread_mutex_init(&ring->lock, NULL);
	ring->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return ring->wake_fd < 0 ? error_set(errno, "cannot make an event counter: %s", strerror(errno)) : 0;
}

void event_ring_free(struct event_ring *ring)
{
	if (ring->wake_fd >= 0)
		close(ring->wake_fd);
	pthread_mutex_destroy(&ring->lock);
}

void event_ring_put(void *context, enum machine_event event, const char *detail)
{
	struct event_ring *ring = context;
	struct event_record *record;
	uint64_t one = 1;
	ssize_t written;

	pthread_mutex_lock(&ring->lock);
	if (ring->count == EVENTS_MAX && event == MACHINE_EVENT_SHUTDOWN)
		ring->count--;
	if (ring->count < EVENTS_MAX) {
		record = &ring->record[(ring->first + ring->count++) % EVENTS_MAX];
		*record = (struct event_record){.event = event};
		clock_gettime(CLOCK_REALTIME, &record->at);
		if (detail)
			strncpy(record->detail, detail, sizeof(record->detail) - 1);
	}
	pthread_mutex_unlock(&ring->lock);
	written = write(ring->wake_fd, &one, sizeof(one));
	(void)written; /* a full counter wakes as well */
}

bool event_ring_take(struct event_ring *ring, struct event_record *record)
{
	bool found;

	pthread_mutex_lock(&ring->lock);
	found = ring->count != 0;
	if (found) {
		*record = ring->record[ring->first];
		ring->first = (ring->first + 1) % EVENTS_MAX;
		ring->count--;
	}
	pthread_mutex_unlock(&ring->lock);
	return found;
}

static json_t *event_data(const struct event_record *record)
{
	const char *detail = record->detail;

	switch (record->event) {
	case MACHINE_EVENT_SHUTDOWN:
	case MACHINE_EVENT_RESET:
		return json_pack("{s:b,s:s}", "guest", !strncmp(detail, "guest-", 6), "reason",
		                 *detail ? detail : STOP_HOST_ERROR);
	case MACHINE_EVENT_PANICKED:
		return json_pack("{s:s,s:s}", "action", "run", "info", *detail ? detail : "panicked");
	case MACHINE_EVENT_TRAY:
		return json_pack("{s:s%,s:s,s:b}", "device", detail, strcspn(detail, " "), "id", "",
		                 "tray-open", strstr(detail, " open") != NULL);
	case MACHINE_EVENT_BLOCK_ERROR:
		return json_pack("{s:s,s:s}", "action", "report", "reason", detail);
	default:
		return NULL;
	}
}

json_t *event_message(const struct event_record *record)
{
	static const char *const names[MACHINE_EVENTS] = {
	    [MACHINE_EVENT_RESET] = "RESET",
	    [MACHINE_EVENT_SHUTDOWN] = "SHUTDOWN",
	    [MACHINE_EVENT_POWERDOWN] = "POWERDOWN",
	    [MACHINE_EVENT_SUSPEND] = "SUSPEND",
	    [MACHINE_EVENT_WAKEUP] = "WAKEUP",
	    [MACHINE_EVENT_PANICKED] = "GUEST_PANICKED",
	    [MACHINE_EVENT_BLOCK_ERROR] = "BLOCK_IO_ERROR",
	    [MACHINE_EVENT_TRAY] = "DEVICE_TRAY_MOVED",
	    [MACHINE_EVENT_STOPPED] = "STOP",
	    [MACHINE_EVENT_RESUMED] = "RESUME",
	};
	json_t *message, *data;

	if (record->event >= MACHINE_EVENTS || !names[record->event])
		return NULL;
	message = json_pack("{s:s,s:{s:I,s:I}}", "event", names[record->event], "timestamp", "seconds",
	                    (json_int_t)record->at.tv_sec, "microseconds", (json_int_t)(record->at.tv_nsec / 1000));
	data = event_data(record);
	if (message && data)
		json_object_set_new(message, "data", data);
	return message;
}
