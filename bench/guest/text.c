/* Inputs: text to compress, lines to sort, an SQL session. Made in the guest, because an initramfs is loaded slowly. */
#include "micro.h"

#include <stdio.h>
#include <string.h>

#define WORDS 4096

static char word[WORDS][12];
static unsigned char length[WORDS];

/* Pseudo-words of 2 to 9 letters. */
static void make_words(uint64_t *state)
{
	for (unsigned i = 0; i < WORDS; i++) {
		length[i] = 2 + next_random(state) % 8;
		for (unsigned j = 0; j < length[i]; j++)
			word[i][j] = (j & 1 ? "aeiou"[next_random(state) % 5]
					    : "bcdfghklmnprstvwz"[next_random(state) % 17]);
		word[i][length[i]++] = ' ';
	}
}

/* Small numbers are the frequent ones, as in a language. */
static unsigned pick(uint64_t *state)
{
	uint64_t random = next_random(state);
	unsigned bits = 2 + random % 11;

	return (random >> 20) & ((1u << bits) - 1);
}

uint64_t micro_text(unsigned long megabytes)
{
	static char buffer[65536 + 16];
	uint64_t state = 0x9e3779b97f4a7c15;
	unsigned used = 0, column = 0;

	make_words(&state);
	for (unsigned long left = megabytes * 16; left;) {
		unsigned i = pick(&state);

		memcpy(buffer + used, word[i], length[i]);
		used += length[i];
		column += length[i];
		if (column > 70) {
			buffer[used - 1] = '\n';
			column = 0;
		}
		if (used >= 65536) {
			fwrite(buffer, 1, 65536, stdout);
			memmove(buffer, buffer + 65536, used - 65536);
			used -= 65536;
			left--;
		}
	}
	return 0;
}

uint64_t micro_lines(unsigned long lines)
{
	uint64_t state = 0xd1b54a32d192ed03;

	make_words(&state);
	for (; lines; lines--) {
		char line[128];
		unsigned used = 0;

		for (unsigned words = 3 + next_random(&state) % 8; words; words--) {
			unsigned i = pick(&state);

			memcpy(line + used, word[i], length[i]);
			used += length[i];
		}
		line[used - 1] = '\n';
		fwrite(line, 1, used, stdout);
	}
	return 0;
}

/* In the manner of SQLite's own speedtest: inserts in transactions, indexes, selects, updates, joins, deletes. */
uint64_t micro_sql(unsigned long rows)
{
	uint64_t state = 0xa0761d6478bd642f;

	make_words(&state);
	puts("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-16000;");
	puts("CREATE TABLE item(id INTEGER PRIMARY KEY, number INTEGER, owner INTEGER, name TEXT);");
	puts("CREATE TABLE owner(id INTEGER PRIMARY KEY, name TEXT);");
	for (unsigned long i = 0; i < rows; i++) {
		if (i % 1000 == 0)
			puts(i ? "COMMIT; BEGIN;" : "BEGIN;");
		printf("INSERT INTO item VALUES(%lu,%u,%lu,'%s%s%s');\n", i, (unsigned)(next_random(&state) % 1000000),
		       i * 7919 % (rows / 20 + 1), word[pick(&state)], word[pick(&state)], word[pick(&state)]);
		if (i % 20 == 0)
			printf("INSERT INTO owner VALUES(%lu,'%s');\n", i / 20, word[pick(&state)]);
	}
	puts("COMMIT;");
	puts("CREATE INDEX item_number ON item(number); CREATE INDEX item_owner ON item(owner, number);");
	for (unsigned long i = 0; i < rows / 8; i++) {
		unsigned number = next_random(&state) % 1000000;

		printf("SELECT count(*), avg(id) FROM item WHERE number BETWEEN %u AND %u;\n", number, number + 500);
	}
	puts("BEGIN;");
	for (unsigned long i = 0; i < rows / 4; i++)
		printf("UPDATE item SET number=number+%u WHERE id=%lu;\n", (unsigned)(next_random(&state) % 1000),
		       (unsigned long)(next_random(&state) % rows));
	puts("COMMIT;");
	puts("SELECT owner.name, count(*), sum(number), max(item.name) FROM item JOIN owner ON owner.id=item.owner"
	     " GROUP BY owner.name ORDER BY 3 DESC LIMIT 20;");
	puts("SELECT a.owner, count(*) FROM item a JOIN item b ON a.owner=b.owner AND a.number<b.number"
	     " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10;");
	puts("SELECT count(*), sum(length(name)) FROM item WHERE name LIKE '%ba%' OR name LIKE '%to%';");
	puts("SELECT name, count(*) FROM item GROUP BY substr(name,1,3) ORDER BY 2 DESC, 1 LIMIT 10;");
	puts("DELETE FROM item WHERE number % 3 = 0; SELECT count(*), sum(number) FROM item; PRAGMA integrity_check;");
	return 0;
}
