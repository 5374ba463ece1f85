/* The series' fork and munmap as a program makes them: the same mapping, with the whole path of a system call in the figure. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define BYTES (1L << 30)
#define START ((void *)0x4000000000)

static long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static char *touched(void)
{
	char *at = mmap(START, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (at == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	for (long i = 0; i < BYTES; i += PAGE)
		at[i] = 1;
	return at;
}

int main(void)
{
	char *at = touched();
	long start = now();
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	long forked = now() - start;
	if (child < 0) {
		perror("fork");
		return 1;
	}
	waitpid(child, 0, 0);
	munmap(at, BYTES);
	at = touched();
	start = now();
	munmap(at, BYTES);
	printf("fork %ld munmap %ld\n", forked, now() - start);
	return 0;
}
