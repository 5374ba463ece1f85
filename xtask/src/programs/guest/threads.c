/* Threads: one runs another program, and one runs into the guard page of its stack. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *spin(void *pauses)
{
	for (volatile long turns = 0;; turns++)
		if (pauses)
			pause();
	return 0;
}

static void *run_another(void *unused)
{
	char *arguments[] = {"threads", "another", 0};
	usleep(10000);
	execv("/proc/self/exe", arguments);
	exit(9);
}

static void *deeper(void *from)
{
	volatile char here[3000];
	here[0] = from != 0;
	return (char *)deeper((void *)here) + here[0];
}

static int status_of(pid_t child)
{
	int status = -1;
	waitpid(child, &status, 0);
	return status;
}

static int another_by(int is_first)
{
	pthread_t thread;
	pid_t child = fork();
	if (child)
		return status_of(child);
	for (int i = 0; i < 6; i++)
		pthread_create(&thread, 0, spin, (void *)(long)(i & 1));
	if (is_first)
		run_another(0);
	pthread_create(&thread, 0, run_another, 0);
	pause();
	return 1;
}

static int beyond_its_stack(void)
{
	pthread_t thread;
	pid_t child = fork();
	if (child)
		return status_of(child);
	pthread_create(&thread, 0, deeper, 0);
	pthread_join(thread, 0);
	_exit(0);
}

int main(int count, char **arguments)
{
	if (count > 1 && !strcmp(arguments[1], "another"))
		return getpid() != syscall(SYS_gettid);
	if (another_by(1) || another_by(0)) {
		puts("threads: the other program found more than one thread");
		return 1;
	}
	int status = beyond_its_stack();
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) {
		printf("threads: beyond its stack: status %x\n", status);
		return 1;
	}
	puts("threads: as expected");
	return 0;
}
