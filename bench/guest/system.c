/* What an operating system does for its programs: page faults and mappings, and processes that take turns. */
#include "micro.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define REGION (8ul << 20)

/*
 * One pass: a large mapping made, each page touched, parts of it protected and written again, a copy by fork's means
 * left out (spawn does that), and a hundred small mappings made and undone.
 */
uint64_t micro_faults(unsigned long passes)
{
	uint64_t sum = 0;

	for (unsigned long pass = 0; pass < passes; pass++) {
		char *region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (region == MAP_FAILED)
			micro_fail("mmap");
		/* Faults of single pages are what is measured. */
		madvise(region, REGION, MADV_NOHUGEPAGE);
		for (unsigned long at = 0; at < REGION; at += PAGE)
			region[at] = (char)(at / PAGE);
		for (unsigned long at = 0; at < REGION; at += REGION / 16) {
			if (mprotect(region + at, REGION / 32, PROT_READ) != 0 ||
			    mprotect(region + at, REGION / 32, PROT_READ | PROT_WRITE) != 0)
				micro_fail("mprotect");
			for (unsigned long page = 0; page < REGION / 32; page += PAGE)
				region[at + page]++;
		}
		madvise(region + REGION / 2, REGION / 4, MADV_DONTNEED);
		for (unsigned long at = 0; at < REGION; at += PAGE)
			sum += (unsigned char)region[at];
		munmap(region, REGION);
		for (unsigned i = 0; i < 100; i++) {
			char *small = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (small == MAP_FAILED)
				micro_fail("mmap");
			small[i] = small[2 * PAGE + i] = (char)i;
			sum += (unsigned char)small[2 * PAGE + i];
			munmap(small, 4 * PAGE);
		}
	}
	return sum;
}

/* A byte goes to another process and back: two context switches, two reads, two writes. */
uint64_t micro_pipes(unsigned long round_trips)
{
	int there[2], back[2];
	uint64_t sum = 0;
	unsigned char byte = 1;
	pid_t child;

	if (pipe(there) != 0 || pipe(back) != 0)
		micro_fail("pipe");
	child = fork();
	if (child < 0)
		micro_fail("fork");
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1) {
			byte = (unsigned char)(byte * 5 + 1);
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	for (; round_trips; round_trips--) {
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			micro_fail("pipe");
		sum = sum * 31 + byte;
	}
	close(there[1]);
	waitpid(child, NULL, 0);
	return sum;
}
