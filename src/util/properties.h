/*
 * Option values of the form "FIRST,key=value,flag,…": a text cut at commas, where ",," stands for one comma. How
 * --disk, --net, --share, --vnc and their like are written.
 */
#ifndef NESTOR_UTIL_PROPERTIES_H
#define NESTOR_UTIL_PROPERTIES_H

#include <stdbool.h>
#include <stdint.h>

#define PROPERTIES_MAX 48

struct property {
	const char *key;   /* never NULL */
	const char *value; /* NULL: the key stood alone */
	bool used;
};

struct properties {
	const char *option; /* "--disk", for messages; borrowed */
	const char *text;   /* the whole, for messages; borrowed */
	char *copy;         /* what key and value point into; owned */
	struct property item[PROPERTIES_MAX];
	unsigned count;
};

/* Cuts text up. Returns 0, or -EINVAL or -ENOMEM with error_text(). Free with properties_free in either case. */
int properties_parse(struct properties *list, const char *option, const char *text);
void properties_free(struct properties *list);

/* The first item where it is a word without "=" (a file name, a kind), marked as used; else NULL. */
const char *properties_first(struct properties *list);

/* The first item as a whole, also with a "=" in it: a file name or address that always comes first. Marked as used. */
const char *properties_name(struct properties *list);

/* The value of key, marked as used: NULL where it is not given; "" where it is given without a value. */
const char *properties_get(struct properties *list, const char *key);

/* A switch: absent: `otherwise`; alone, or =on: true; =off: false. Returns 0, or -EINVAL with error_text(). */
int properties_switch(struct properties *list, const char *key, bool otherwise, bool *value);

/* A decimal number within [low, high]; *value stays where key is absent. Returns 0, or -EINVAL with error_text(). */
int properties_number(struct properties *list, const char *key, uint64_t low, uint64_t high, uint64_t *value);

/* 0 where every item was used; else -EINVAL with error_text(): the key that nobody knows, and `known` (a phrase). */
int properties_check_used(const struct properties *list, const char *known);

#endif
