#include "util/properties.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

/* Ends the item at p and returns the start of the next, or NULL. ",," becomes "," in place. */
static char *cut(char *p)
{
	char *to = p;

	for (; *p; p++) {
		if (*p == ',') {
			if (p[1] != ',') {
				*to = '\0';
				return p + 1;
			}
			p++;
		}
		*to++ = *p;
	}
	*to = '\0';
	return NULL;
}

int properties_parse(struct properties *list, const char *option, const char *text)
{
	char *next;

	*list = (struct properties){.option = option, .text = text};
	if (!*text)
		return error_set(EINVAL, "%s: the value is empty", option);
	list->copy = strdup(text);
	if (!list->copy)
		return error_set(ENOMEM, "out of memory");
	for (char *item = list->copy; item; item = next) {
		char *equals;

		next = cut(item);
		if (list->count == PROPERTIES_MAX)
			return error_set(EINVAL, "%s %s: more than %d parts between commas", option, text,
			                 PROPERTIES_MAX);
		/* The first item may be a path with a '=' in it only where it is written key=value. */
		equals = strchr(item, '=');
		if (!*item || equals == item)
			return error_set(EINVAL, "%s %s: an empty part between commas (a comma in a name is written ,,)",
					 option, text);
		if (equals)
			*equals++ = '\0';
		list->item[list->count++] = (struct property){.key = item, .value = equals};
	}
	return 0;
}

void properties_free(struct properties *list)
{
	free(list->copy);
	*list = (struct properties){0};
}

const char *properties_first(struct properties *list)
{
	if (!list->count || list->item[0].value)
		return NULL;
	list->item[0].used = true;
	return list->item[0].key;
}

const char *properties_name(struct properties *list)
{
	struct property *item = &list->item[0];

	if (!list->count)
		return NULL;
	if (item->value)
		list->copy[item->value - 1 - list->copy] = '=';
	item->value = NULL;
	item->used = true;
	return item->key;
}

static struct property *find(struct properties *list, const char *key)
{
	struct property *found = NULL;

	for (unsigned i = 0; i < list->count; i++) {
		if (strcmp(list->item[i].key, key))
			continue;
		list->item[i].used = true;
		found = &list->item[i]; /* the last one counts */
	}
	return found;
}

const char *properties_get(struct properties *list, const char *key)
{
	const struct property *item = find(list, key);

	return !item ? NULL : item->value ? item->value : "";
}

int properties_switch(struct properties *list, const char *key, bool otherwise, bool *value)
{
	const struct property *item = find(list, key);

	*value = otherwise;
	if (!item)
		return 0;
	*value = !item->value || !strcmp(item->value, "on");
	if (!*value && strcmp(item->value, "off"))
		return error_set(EINVAL, "%s %s: %s must be on or off", list->option, list->text, key);
	return 0;
}

int properties_number(struct properties *list, const char *key, uint64_t low, uint64_t high, uint64_t *value)
{
	const struct property *item = find(list, key);
	uint64_t number = 0;
	const char *p;

	if (!item)
		return 0;
	p = item->value ? item->value : "";
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number))
			break;
	if (!item->value || p == item->value || *p || number < low || number > high)
		return error_set(EINVAL, "%s %s: %s must be a number from %llu to %llu", list->option,
		                 list->text, key, (unsigned long long)low, (unsigned long long)high);
	*value = number;
	return 0;
}

int properties_check_used(const struct properties *list, const char *known)
{
	for (unsigned i = 0; i < list->count; i++)
		if (!list->item[i].used)
			return error_set(EINVAL, "%s %s: '%s' is not known; %s", list->option, list->text,
					 list->item[i].key, known);
	return 0;
}
